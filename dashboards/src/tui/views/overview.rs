//! Rates, what met what, findings by strength, loss and health of the hooks.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    text::{Line, Span},
    widgets::{Paragraph, RenderDirection, Sparkline, Wrap},
};
use tracer::{
    judge::{facts::Outcome, finding::Strength, text::duration},
    story::Series,
};

use super::{Canvas, list::cell};
use crate::tui::palette::{Role, mark};

pub fn draw(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>) {
    let rates_height = if area.height >= 36 { 15 } else { 10 };
    let [rates, rest] =
        Layout::vertical([Constraint::Length(rates_height), Constraint::Min(0)]).areas(area);
    draw_rates(frame, rates, canvas);
    if area.width >= 100 {
        let [left, right] =
            Layout::horizontal([Constraint::Min(0), Constraint::Length(46)]).areas(rest);
        draw_coverage(frame, left, canvas);
        draw_health(frame, right, canvas);
    } else {
        let [health, coverage] =
            Layout::vertical([Constraint::Length(8), Constraint::Min(0)]).areas(rest);
        draw_health(frame, health, canvas);
        draw_coverage(frame, coverage, canvas);
    }
}

fn short(value: u64) -> String {
    match value {
        0..10_000 => value.to_string(),
        10_000..10_000_000 => format!("{:.0}k", value as f64 / 1e3),
        _ => format!("{:.0}M", value as f64 / 1e6),
    }
}

fn draw_rates(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>) {
    let rates = &canvas.model.story.statistics().rates;
    let sum = |series: &Series| series.bins().iter().sum::<u64>();
    // Some that were held off by one window came into another; the rest of the screen does not count them.
    let held_off = canvas.model.figures.outcomes.held_off;
    let rows: [(&str, &Series, u64, Role); 5] = [
        ("events", &rates.events, sum(&rates.events), Role::Accent),
        (
            "faults",
            &rates.faults,
            sum(&rates.faults),
            Role::Fault(Outcome::Beside),
        ),
        ("windows", &rates.windows, sum(&rates.windows), Role::Window),
        (
            "held off",
            &rates.held_off,
            held_off,
            Role::Fault(Outcome::HeldOff),
        ),
        ("broken rules", &rates.found, sum(&rates.found), Role::Bad),
    ];
    let height = area.height / rows.len() as u16;
    for (index, (name, series, whole, role)) in rows.into_iter().enumerate() {
        let place = Rect::new(
            area.x,
            area.y + index as u16 * height,
            area.width,
            height.saturating_sub(u16::from(height > 2)),
        )
        .intersection(area);
        let [label, line] =
            Layout::horizontal([Constraint::Length(28), Constraint::Min(0)]).areas(place);
        let values = series.rates(usize::from(line.width));
        let text = vec![
            Line::from(vec![
                Span::raw(format!(" {name:<13}")),
                Span::styled(format!("{:>9}", short(whole)), canvas.palette.style(role)),
            ]),
            Line::from(canvas.dim(format!(
                "   now {:>5}/s peak {:>5}/s",
                short(values.last().copied().unwrap_or(0)),
                short(values.iter().copied().max().unwrap_or(0))
            ))),
        ];
        frame.render_widget(Paragraph::new(text), label);
        frame.render_widget(
            Sparkline::default()
                .data(&values)
                .direction(RenderDirection::LeftToRight)
                .style(canvas.palette.style(role)),
            line,
        );
    }
}

fn draw_coverage(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>) {
    let mut lines = vec![
        canvas.head(" windows and the faults that met them"),
        Line::from(canvas.dim(format!(
            " {} {} {} {} {} {}",
            cell("fs", 4),
            cell("operation", 24),
            cell("fault", 9),
            cell("windows", -8),
            cell("met", -8),
            cell("held off", -9)
        ))),
    ];
    for row in &canvas.model.report.coverage {
        let met = if row.met == 0 {
            "never".to_owned()
        } else {
            row.met.to_string()
        };
        let text = format!(
            " {} {} {} {}",
            cell(row.filesystem.name(), 4),
            cell(row.operation.name(), 24),
            cell(row.fault.name(), 9),
            cell(&row.windows.to_string(), -8),
        );
        let role = if row.met == 0 {
            Role::Unsure
        } else {
            Role::Good
        };
        lines.push(Line::from(vec![
            Span::raw(text),
            canvas.styled(format!(" {}", cell(&met, -8)), role),
            Span::raw(format!(" {}", cell(&row.held_off.to_string(), -9))),
        ]));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn draw_health(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>) {
    let report = &canvas.model.report;
    let strength = |of: Strength| {
        report
            .findings
            .iter()
            .filter(|finding| finding.strength == of)
            .count()
    };
    let outcomes = canvas.model.figures.outcomes;
    let attached = report
        .hooks
        .iter()
        .filter(|hook| hook.mechanism.is_some())
        .count();
    let mut lines = vec![Line::from(vec![
        canvas.styled(" findings ", Role::Head),
        canvas.styled(
            format!(
                "{} proven  {} observed  ",
                strength(Strength::Proven),
                strength(Strength::Observed)
            ),
            Role::Bad,
        ),
        canvas.styled(
            format!("{} predicted  ", strength(Strength::Predicted)),
            Role::Unsure,
        ),
        canvas.dim(format!("{} known", report.annotated.len())),
    ])];
    for (outcome, count, what) in [
        (Outcome::Inside, outcomes.inside, "faults inside a window"),
        (
            Outcome::HeldOff,
            outcomes.held_off,
            "faults held off by the lock",
        ),
        (Outcome::Beside, outcomes.beside, "faults beside a window"),
        (Outcome::Clear, outcomes.clear, "faults that met none"),
    ] {
        lines.push(Line::from(vec![
            canvas.styled(
                format!(" {} {count:>9} ", mark(outcome)),
                Role::Fault(outcome),
            ),
            Span::raw(what),
        ]));
    }
    lines.push(Line::from(vec![
        canvas.styled(
            format!(" {} events, {} lost", report.events, report.lost),
            if report.lost > 0 {
                Role::Unsure
            } else {
                Role::Good
            },
        ),
        canvas.dim(format!(
            " in {}",
            duration(canvas.model.story.statistics().elapsed())
        )),
    ]));
    lines.push(Line::from(canvas.styled(
        format!(
            " {attached} of {} hooks attached, {} acts unjudged",
            report.hooks.len(),
            report.unjudged
        ),
        if report.unjudged > 0 {
            Role::Unsure
        } else {
            Role::Good
        },
    )));
    for reason in &report.reasons {
        lines.push(Line::from(
            canvas.styled(format!(" {reason}"), Role::Unsure),
        ));
    }
    frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: false }), area);
}
