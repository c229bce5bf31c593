//! Folded stacks of lock waits, for flame graphs: `operation;outermost;...;innermost;lock nanoseconds`.

use std::{collections::BTreeMap, fmt::Write as _};

use tracer::story::Figures;

/// Renders the waits of figures whose stacks are resolved. Waits without a stack hang on their operation.
pub fn render(figures: &Figures) -> String {
    let mut lines = BTreeMap::<String, u64>::new();
    let mut with_stack = BTreeMap::<(&str, &str), u64>::new();
    for wait in &figures.wait_stacks {
        *with_stack
            .entry((wait.operation.name(), wait.class))
            .or_default() += wait.total_ns;
        let mut line = wait.operation.name().to_owned();
        for frame in wait.frames.iter().rev() {
            let symbol = frame.split('+').next().unwrap_or(frame);
            let module = frame.split_once(" [").map_or("", |(_, module)| module);
            let module = module.trim_end_matches(']');
            line.push(';');
            line.push_str(&symbol.replace(';', ":"));
            if !module.is_empty() {
                let _ = write!(line, "_[{module}]");
            }
        }
        let _ = write!(line, ";wait:{}", wait.class);
        *lines.entry(line).or_default() += wait.total_ns;
    }
    let mut all = BTreeMap::<(&str, &str), u64>::new();
    for caller in &figures.callers {
        *all.entry((caller.operation.name(), caller.class))
            .or_default() += caller.figures.wait.total_ns;
    }
    for ((operation, class), total) in all {
        let known = with_stack.get(&(operation, class)).copied().unwrap_or(0);
        if total > known {
            lines.insert(
                format!("{operation};[no stack taken];wait:{class}"),
                total - known,
            );
        }
    }
    let mut out = String::new();
    for (line, weight) in lines {
        let _ = writeln!(out, "{line} {weight}");
    }
    out
}
