//! A list with a selected row that stays in sight.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
};

use super::Canvas;
use crate::tui::{State, palette::Role};

/// Draws rows, and notes where for the mouse.
pub fn draw(
    frame: &mut Frame<'_>,
    area: Rect,
    canvas: &Canvas<'_>,
    state: &mut State,
    rows: Vec<Line<'static>>,
) {
    let height = usize::from(area.height);
    let count = rows.len();
    let selected = state.row().min(count.saturating_sub(1));
    state.selected[state.view as usize] = selected;
    let offset = (selected + 1).saturating_sub(height.max(1));
    state.places.list = area;
    state.places.rows = count;
    state.places.offset = offset;
    for (index, row) in rows.into_iter().enumerate().skip(offset).take(height) {
        let place = Rect::new(area.x, area.y + (index - offset) as u16, area.width, 1);
        let row = if index == selected {
            let mut line = row;
            let width = line.width();
            let room = usize::from(area.width).saturating_sub(width);
            line.push_span(Span::raw(" ".repeat(room)));
            line.patch_style(canvas.palette.style(Role::Selected))
        } else {
            row
        };
        frame.render_widget(row, place);
    }
}

/// A cell of a column: cut or padded to `width`, to the left or, negative, to the right.
pub fn cell(text: &str, width: i32) -> String {
    let room = width.unsigned_abs() as usize;
    let count = text.chars().count();
    if count > room {
        let mut cut: String = text.chars().take(room.saturating_sub(1)).collect();
        cut.push('…');
        return cut;
    }
    if width < 0 {
        format!("{text:>room$}")
    } else {
        format!("{text:<room$}")
    }
}
