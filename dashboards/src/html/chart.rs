//! Histograms of durations, small enough for a table's cell.

use std::fmt::Write as _;

use tracer::{judge::text::duration, story::Spans};

/// The first bin ends here, nanoseconds; each further one at twice as much.
const FIRST: u64 = 256;
const BINS: usize = 26;
const WIDTH: usize = 6;
const HEIGHT: u64 = 30;

fn edges() -> Vec<u64> {
    (0..BINS - 1).map(|bin| FIRST << bin).collect()
}

/// A histogram over powers of two; all have the same axis, so that they can be compared by eye.
pub fn histogram(spans: &Spans, class: &str) -> String {
    if spans.count() == 0 {
        return String::new();
    }
    let edges = edges();
    let bins = spans.binned(&edges);
    let most = bins.iter().copied().max().unwrap_or(1).max(1);
    let mut out = format!(
        "<svg width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" role=\"img\" aria-label=\"distribution\">",
        w = BINS * WIDTH,
        h = HEIGHT + 1
    );
    for (index, &count) in bins.iter().enumerate() {
        if count == 0 {
            continue;
        }
        // Roots: a bar for a thousandth is still to be seen.
        let height = ((count as f64 / most as f64).sqrt() * HEIGHT as f64).max(1.5);
        let label = match (index.checked_sub(1).map(|at| edges[at]), edges.get(index)) {
            (None, Some(&to)) => format!("below {}", duration(to)),
            (Some(from), Some(&to)) => format!("{} to {}", duration(from), duration(to)),
            (from, None) => format!("above {}", duration(from.unwrap_or(0))),
        };
        let _ = write!(
            out,
            "<rect class=\"bar {class}\" x=\"{}\" y=\"{:.1}\" width=\"{}\" height=\"{height:.1}\"><title>{label}: {count}</title></rect>",
            index * WIDTH,
            HEIGHT as f64 - height,
            WIDTH - 1
        );
    }
    let _ = write!(
        out,
        "<line class=\"axis\" x1=\"0\" x2=\"{}\" y1=\"{HEIGHT}.5\" y2=\"{HEIGHT}.5\"/></svg>",
        BINS * WIDTH
    );
    out
}

/// What the axis says.
pub fn legend() -> String {
    let edges = edges();
    format!(
        "Histograms: one bar a power of two, from {} on the left to {} on the right; heights are roots.",
        duration(edges[0]),
        duration(edges[edges.len() - 1])
    )
}
