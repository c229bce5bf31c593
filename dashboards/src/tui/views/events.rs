//! Raw events, the latest last, with search.

use ratatui::{Frame, layout::Rect, text::Line};
use tracer::units::Nanos;

use super::{Canvas, below_head, list, list::cell};
use crate::tui::{State, palette::Role};

pub fn draw(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>, state: &mut State) {
    let model = canvas.model;
    let (head, body) = below_head(area);
    let title = format!(
        " {} {} {} {} {} {} {} {}",
        cell("time s", -14),
        cell("cpu", -3),
        cell("task", -7),
        cell("hook", 28),
        cell("depth", 5),
        cell("a", -18),
        cell("b", -18),
        cell("c", -10)
    );
    frame.render_widget(Line::from(canvas.styled(title, Role::Head)), head);
    let mut rows = Vec::new();
    // Newest first: a live list that grows at its end would never stand still.
    for (cpu, event) in model.events.iter().rev() {
        let Nanos(time) = Nanos(event.head.time);
        let name = model.hook(event.head.hook);
        let text = format!(
            " {:>4}.{:09} {:>3} {:>7} {} {:<5} {:>18} {:>18} {:>10}",
            time / 1_000_000_000,
            time % 1_000_000_000,
            cpu,
            event.head.task,
            cell(
                &format!(
                    "{}{name}",
                    "  ".repeat(usize::from(event.head.depth.min(4)))
                ),
                28
            ),
            event.head.depth,
            value(event.a),
            value(event.b),
            value(event.c),
        );
        if state.filter().is_empty() || state.passes(&text) {
            rows.push(Line::from(text));
        }
    }
    list::draw(frame, body, canvas, state, rows);
}

/// Small numbers in decimal, negative ones too (a lock may lie before its inode), addresses and bit masks in
/// hexadecimal.
fn value(value: u64) -> String {
    let signed = value as i64;
    if value < 1 << 32 || signed.unsigned_abs() < 1 << 16 {
        signed.to_string()
    } else {
        format!("{value:#x}")
    }
}
