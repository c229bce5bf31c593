//! The screen: tabs above, a view, and below it the time bar or the present.

mod events;
mod findings;
mod help;
mod list;
mod locks;
mod overview;
mod waitfor;
mod windows;

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::Paragraph,
};
use tracer::judge::text::duration;

use super::{Model, Palette, Position, State, Typing, View, palette::Role, state::Places};

pub use findings::visible as visible_findings;

/// What a view draws with.
struct Canvas<'a> {
    model: &'a Model,
    palette: Palette,
}

impl Canvas<'_> {
    fn styled(&self, text: impl Into<String>, role: Role) -> Span<'static> {
        Span::styled(text.into(), self.palette.style(role))
    }

    fn dim(&self, text: impl Into<String>) -> Span<'static> {
        self.styled(text, Role::Dim)
    }

    fn head(&self, text: impl Into<String>) -> Line<'static> {
        Line::from(self.styled(text, Role::Head))
    }
}

/// Draws everything.
pub fn draw(
    frame: &mut Frame<'_>,
    model: &Model,
    state: &mut State,
    position: Option<&Position>,
    palette: Palette,
) {
    state.places = Places::default();
    let canvas = Canvas { model, palette };
    let [tabs, body, bottom] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    draw_tabs(frame, tabs, &canvas, state);
    match state.view {
        View::Overview => overview::draw(frame, body, &canvas),
        View::Locks => locks::draw(frame, body, &canvas, state),
        View::Windows => windows::draw(frame, body, &canvas, state),
        View::WaitFor => waitfor::draw(frame, body, &canvas, state),
        View::Findings => findings::draw(frame, body, &canvas, state),
        View::Events => events::draw(frame, body, &canvas, state),
    }
    draw_bottom(frame, bottom, &canvas, state, position);
    if state.help {
        help::draw(frame, body, &canvas, state.view, position.is_some());
    }
}

fn draw_tabs(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>, state: &mut State) {
    let narrow = area.width < 76;
    let mut x = area.x;
    let mut spans = Vec::new();
    for (index, view) in View::ALL.into_iter().enumerate() {
        let top = view == state.view;
        let label = if narrow && !top {
            format!(" {} ", index + 1)
        } else {
            format!(" {} {} ", index + 1, view.name())
        };
        let width = label.chars().count() as u16;
        let place = Rect::new(x, area.y, width, 1).intersection(area);
        state.places.tabs.push((place, view));
        x = x.saturating_add(width);
        spans.push(if top {
            canvas.styled(label, Role::Selected)
        } else {
            canvas.dim(label)
        });
    }
    let verdict = model_verdict(canvas);
    let used = x - area.x;
    let width = verdict.width() as u16 + 1;
    frame.render_widget(Line::from(spans), area);
    if used + width < area.width {
        let place = Rect::new(area.x + area.width - width, area.y, width, 1);
        frame.render_widget(verdict, place);
    }
}

fn model_verdict(canvas: &Canvas<'_>) -> Line<'static> {
    let report = &canvas.model.report;
    let count = match report.findings.len() {
        0 => String::new(),
        many => format!(": {many}"),
    };
    Line::from(Span::styled(
        format!("{}{count}", report.verdict.name()),
        canvas.palette.verdict(report.verdict),
    ))
}

fn draw_bottom(
    frame: &mut Frame<'_>,
    area: Rect,
    canvas: &Canvas<'_>,
    state: &mut State,
    position: Option<&Position>,
) {
    if let Some(typing) = &state.typing {
        let (sign, text) = match typing {
            Typing::Filter => ("/", state.filter()),
            Typing::Time(text) => ("go to ", text.as_str()),
        };
        let line = Line::from(vec![
            canvas.styled(sign, Role::Accent),
            Span::raw(text.to_owned()),
            canvas.styled(" ", Role::Selected),
        ]);
        frame.render_widget(line, area);
        return;
    }
    let keys = if area.width >= 60 {
        " ? help  q leave"
    } else {
        " ?"
    };
    let left = match position {
        None => format!(
            " live  {} events  {} lost  {}",
            canvas.model.report.events,
            canvas.model.story.lost(),
            duration(canvas.model.story.statistics().elapsed())
        ),
        Some(position) => format!(
            " {} {:.3} s ",
            if position.seeking {
                "..".to_owned()
            } else if position.playing {
                format!("> {}x", position.speed)
            } else {
                format!("|| {}x", position.speed)
            },
            (position.at.0 - position.from.0) as f64 / 1e9
        ),
    };
    let filter = if state.filter().is_empty() {
        String::new()
    } else {
        format!(" /{}", state.filter())
    };
    let used = (left.chars().count() + filter.chars().count() + keys.len()) as u16;
    let mut spans = vec![Span::raw(left.clone())];
    if let Some(position) = position
        && used + 12 <= area.width
    {
        let width = area.width - used - 1;
        let start = area.x + left.chars().count() as u16;
        state.places.bar = Rect::new(start, area.y, width, 1);
        spans.extend(bar(canvas, position, usize::from(width)));
    }
    spans.push(canvas.styled(filter, Role::Accent));
    spans.push(canvas.dim(keys));
    frame.render_widget(Paragraph::new(Line::from(spans)), area);
}

/// The time bar: how far the story is, and where findings are.
fn bar(canvas: &Canvas<'_>, position: &Position, width: usize) -> Vec<Span<'static>> {
    let span = (position.to.0 - position.from.0).max(1) as f64;
    let place = |time: u64| {
        let share = time.saturating_sub(position.from.0) as f64 / span;
        (share * (width.saturating_sub(1)) as f64).round() as usize
    };
    let at = place(position.at.0);
    let findings: Vec<usize> = position
        .findings
        .iter()
        .map(|finding| place(finding.0))
        .collect();
    (0..width)
        .map(|column| {
            if column == at {
                canvas.styled("●", Role::Accent)
            } else if findings.contains(&column) {
                canvas.styled("◆", Role::Bad)
            } else if column < at {
                canvas.styled("━", Role::Accent)
            } else {
                canvas.dim("─")
            }
        })
        .collect()
}

/// Splits off a head line.
fn below_head(area: Rect) -> (Rect, Rect) {
    let [head, rest] = Layout::vertical([Constraint::Length(1), Constraint::Min(0)]).areas(area);
    (head, rest)
}
