//! The help, made from the table of keys.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph},
};

use super::{Canvas, list::cell};
use crate::tui::{View, keys::BINDINGS, palette::Role};

pub fn draw(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>, view: View, recorded: bool) {
    let lines: Vec<Line<'static>> = BINDINGS
        .iter()
        .filter(|binding| !binding.label.is_empty() && binding.works(view, recorded))
        .map(|binding| {
            Line::from(vec![
                canvas.styled(format!(" {}", cell(binding.label, 11)), Role::Accent),
                Span::raw(format!("{} ", binding.help)),
            ])
        })
        .collect();
    let width = lines.iter().map(Line::width).max().unwrap_or(0) as u16 + 2;
    let height = lines.len() as u16 + 2;
    let place = Rect::new(
        area.x + area.width.saturating_sub(width) / 2,
        area.y + area.height.saturating_sub(height) / 2,
        width.min(area.width),
        height.min(area.height),
    );
    frame.render_widget(Clear, place);
    frame.render_widget(
        Paragraph::new(lines).block(Block::bordered().title(format!(" keys in {} ", view.name()))),
        place,
    );
}
