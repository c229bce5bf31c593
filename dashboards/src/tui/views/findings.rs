//! Findings, and of the selected one both sides beside each other.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span, Text},
    widgets::{Block, Borders, Paragraph, Wrap},
};
use tracer::judge::{
    finding::{Finding, FindingTask},
    text::{duration, span},
};

use super::{Canvas, below_head, list};
use crate::tui::{Model, State, palette::Role};

/// Findings that pass the filter, the known ones last; true for those.
pub fn visible<'a>(model: &'a Model, state: &State) -> Vec<(&'a Finding, bool)> {
    let known = model
        .report
        .annotated
        .iter()
        .map(|known| (&known.finding, true));
    model
        .report
        .findings
        .iter()
        .map(|finding| (finding, false))
        .chain(known)
        .filter(|(finding, _)| state.passes(&line(finding)))
        .collect()
}

fn line(finding: &Finding) -> String {
    format!(
        "{} {} {} {} {} {}",
        finding.strength.name(),
        finding.kind.name(),
        finding.filesystem.name(),
        finding.operation.name(),
        finding.path,
        finding.target
    )
}

pub fn draw(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>, state: &mut State) {
    let findings = visible(canvas.model, state);
    let (head, rest) = below_head(area);
    if findings.is_empty() {
        frame.render_widget(canvas.head(" no finding so far"), head);
        return;
    }
    frame.render_widget(
        canvas.head(format!(
            " {} finding{}; Enter shows the moment in Windows",
            findings.len(),
            if findings.len() == 1 { "" } else { "s" }
        )),
        head,
    );
    let rows = (findings.len() as u16).min((rest.height / 3).max(1));
    let [above, below] =
        Layout::vertical([Constraint::Length(rows), Constraint::Min(0)]).areas(rest);
    let lines = findings
        .iter()
        .map(|(finding, known)| {
            Line::from(vec![
                Span::styled(
                    format!(" {:<10}", finding.strength.name()),
                    canvas.palette.strength(finding.strength),
                ),
                Span::raw(format!(
                    "{} {} {}",
                    finding.kind.name(),
                    finding.filesystem.name(),
                    finding.operation.name()
                )),
                canvas.dim(format!(
                    "  {} times{}",
                    finding.count,
                    if *known { ", known" } else { "" }
                )),
            ])
        })
        .collect();
    list::draw(frame, above, canvas, state, lines);
    if let Some((finding, _)) = findings.get(state.row()) {
        detail(frame, below, canvas, finding);
    }
}

fn detail(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>, finding: &Finding) {
    let mode = finding.expected.mode.map_or("released", |mode| mode.name());
    let text = vec![
        Line::from(Span::raw(finding.sentence.clone())),
        Line::from(vec![
            canvas.dim("lock  "),
            Span::raw(format!(
                "{}: expected {mode}, observed {}",
                finding.expected.class, finding.observed
            )),
        ]),
        Line::from(vec![
            canvas.dim("bytes "),
            Span::raw(span(finding.range.offset, finding.range.length)),
            canvas.dim(format!(
                "  at {:.9} s, by {}",
                finding.time_ns.0 as f64 / 1e9,
                finding.target
            )),
        ]),
    ];
    let width = usize::from(area.width.saturating_sub(2)).max(1);
    let sentence = finding
        .sentence
        .chars()
        .count()
        .div_ceil(width.saturating_sub(8).max(1)) as u16;
    let needed = (sentence + 4).min(area.height / 2 + 1);
    let [above, below] =
        Layout::vertical([Constraint::Length(needed), Constraint::Min(0)]).areas(area);
    frame.render_widget(
        Paragraph::new(text).wrap(Wrap { trim: true }).block(
            Block::new()
                .borders(Borders::TOP)
                .border_style(canvas.palette.style(Role::Dim)),
        ),
        above,
    );
    let sides = Layout::horizontal(vec![
        Constraint::Ratio(1, finding.tasks.len().max(1) as u32);
        finding.tasks.len()
    ])
    .split(below);
    for (task, place) in finding.tasks.iter().zip(sides.iter()) {
        side(frame, *place, canvas, finding, task);
    }
}

fn side(
    frame: &mut Frame<'_>,
    area: Rect,
    canvas: &Canvas<'_>,
    finding: &Finding,
    task: &FindingTask,
) {
    let mut lines = vec![
        Line::from(canvas.styled(format!("{}/{}", task.name, task.tid), Role::Accent)),
        Line::from(canvas.dim(task.role.clone())),
    ];
    for lock in &finding.locks_held {
        if lock.task == task.tid && !task.sampled {
            lines.push(Line::from(format!(
                "holds {} {} {}",
                lock.class,
                lock.mode.name(),
                duration(lock.held_ns)
            )));
        }
    }
    for stack in &finding.stacks {
        if stack.task == task.tid && stack.role == task.role {
            if stack.sampled && !task.sampled {
                lines.push(Line::from(canvas.dim("of another such act:")));
            }
            lines.extend(
                stack
                    .frames
                    .iter()
                    .map(|frame| Line::from(format!("  {frame}"))),
            );
        }
    }
    frame.render_widget(
        Paragraph::new(Text::from(lines)).block(
            Block::new()
                .borders(Borders::TOP)
                .border_style(canvas.palette.style(Role::Dim)),
        ),
        area,
    );
}
