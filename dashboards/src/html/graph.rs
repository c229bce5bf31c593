//! Which classes of locks were taken inside which, drawn as a graph; edges that close a cycle are marked.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use tracer::{hooks::LockClass, story::Story};

const COLUMN: f64 = 190.0;
const ROW: f64 = 64.0;
const NODE: (f64, f64) = (124.0, 30.0);

type Edges = BTreeMap<(LockClass, LockClass), u64>;

/// Everything that can be reached from each node.
fn reach(edges: &Edges) -> BTreeMap<LockClass, BTreeSet<LockClass>> {
    let mut reach: BTreeMap<LockClass, BTreeSet<LockClass>> = BTreeMap::new();
    for &(from, to) in edges.keys() {
        reach.entry(from).or_default().insert(to);
        reach.entry(to).or_default();
    }
    loop {
        let mut grown = false;
        for node in reach.keys().copied().collect::<Vec<_>>() {
            let next: Vec<LockClass> = reach[&node]
                .iter()
                .flat_map(|middle| reach[middle].iter().copied())
                .collect();
            let known = reach.entry(node).or_default();
            for one in next {
                grown |= known.insert(one);
            }
        }
        if !grown {
            return reach;
        }
    }
}

/// Edges that lie on a cycle of two classes or more.
pub fn cyclic(edges: &Edges) -> BTreeSet<(LockClass, LockClass)> {
    let reach = reach(edges);
    edges
        .keys()
        .copied()
        .filter(|&(from, to)| from != to && reach[&to].contains(&from))
        .collect()
}

/// One drawing a filesystem: its name, the SVG, and whether there is a cycle.
pub fn render(story: &Story) -> Vec<(&'static str, String, bool)> {
    let counts = &story.statistics().nested;
    let mut by_kind: BTreeMap<_, Edges> = BTreeMap::new();
    for pair in story.judge().order() {
        let (kind, outer, inner) = pair;
        // Only locks of inodes are counted.
        let count = counts.get(&pair).copied().unwrap_or(0);
        by_kind
            .entry(kind)
            .or_default()
            .insert((outer, inner), count);
    }
    by_kind
        .into_iter()
        .map(|(kind, edges)| {
            let bad = cyclic(&edges);
            (kind.name(), draw(&edges, &bad), !bad.is_empty())
        })
        .collect()
}

/// The longest way to a node from one that nothing leads to; cycles count once.
fn columns(edges: &Edges, bad: &BTreeSet<(LockClass, LockClass)>) -> BTreeMap<LockClass, usize> {
    let mut column: BTreeMap<LockClass, usize> = BTreeMap::new();
    for &(from, to) in edges.keys() {
        column.entry(from).or_default();
        column.entry(to).or_default();
    }
    for _ in 0..column.len() {
        for &(from, to) in edges.keys() {
            if from != to && !bad.contains(&(from, to)) {
                let next = column[&from] + 1;
                let known = column.entry(to).or_default();
                *known = (*known).max(next);
            }
        }
    }
    column
}

fn draw(edges: &Edges, bad: &BTreeSet<(LockClass, LockClass)>) -> String {
    let columns = columns(edges, bad);
    let mut filled: BTreeMap<usize, usize> = BTreeMap::new();
    let mut places: BTreeMap<LockClass, (f64, f64)> = BTreeMap::new();
    for (&node, &column) in &columns {
        let row = filled.entry(column).or_default();
        // Every other column a little lower: an edge that skips one passes beside its node.
        let shift = if column % 2 == 1 { ROW * 0.55 } else { 0.0 };
        places.insert(
            node,
            (
                8.0 + column as f64 * COLUMN,
                28.0 + *row as f64 * ROW + shift,
            ),
        );
        *row += 1;
    }
    let width = places.values().map(|place| place.0).fold(0.0, f64::max) + NODE.0 + 40.0;
    let height = places.values().map(|place| place.1).fold(0.0, f64::max) + NODE.1 + 24.0;
    let mut out = format!(
        "<svg width=\"{width:.0}\" height=\"{height:.0}\" viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\" aria-label=\"order of locks\">"
    );
    for (&(from, to), &count) in edges {
        let class = if bad.contains(&(from, to)) {
            " bad"
        } else {
            ""
        };
        let (a, b) = (places[&from], places[&to]);
        let (path, label) = if from == to {
            let (x, y) = (a.0 + NODE.0 / 2.0, a.1);
            (
                format!(
                    "M{:.1} {y:.1}C{:.1} {:.1} {:.1} {:.1} {:.1} {y:.1}",
                    x - 16.0,
                    x - 22.0,
                    y - 26.0,
                    x + 22.0,
                    y - 26.0,
                    x + 16.0
                ),
                (x + 24.0, y - 12.0),
            )
        } else {
            let backwards = b.0 <= a.0;
            let (x1, x2) = if backwards {
                (a.0 + NODE.0 / 2.0, b.0 + NODE.0 / 2.0)
            } else {
                (a.0 + NODE.0, b.0)
            };
            let (y1, y2) = if backwards {
                (a.1 + NODE.1, b.1 + NODE.1)
            } else {
                (a.1 + NODE.1 / 2.0, b.1 + NODE.1 / 2.0)
            };
            let bend = if backwards { 34.0 } else { 0.0 };
            let middle = (x1 + x2) / 2.0;
            (
                format!(
                    "M{x1:.1} {y1:.1}C{middle:.1} {:.1} {middle:.1} {:.1} {x2:.1} {y2:.1}",
                    y1 + bend,
                    y2 + bend
                ),
                (middle - 14.0, (y1 + y2) / 2.0 - 5.0 + bend * 0.7),
            )
        };
        let _ = write!(
            out,
            "<path class=\"edge{class}\" d=\"{path}\" marker-end=\"url(#head{})\"/>",
            class.trim()
        );
        if count > 0 {
            let _ = write!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\">{count}</text>",
                label.0, label.1
            );
        }
    }
    for (node, (x, y)) in &places {
        let class = if bad.iter().any(|&(from, to)| from == *node || to == *node) {
            " bad"
        } else {
            ""
        };
        let _ = write!(
            out,
            "<rect class=\"node{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{}\" height=\"{}\" rx=\"5\"/><text class=\"name\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            NODE.0,
            NODE.1,
            x + NODE.0 / 2.0,
            y + 19.0,
            node.name()
        );
    }
    out.push_str("</svg>");
    out
}

/// Arrow heads, once a page.
pub const HEADS: &str = "<svg width=\"0\" height=\"0\" style=\"position:absolute\"><defs>\
    <marker id=\"head\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"8\" markerHeight=\"8\" orient=\"auto\"><path class=\"head\" d=\"M0 0L8 4L0 8z\"/></marker>\
    <marker id=\"headbad\" viewBox=\"0 0 8 8\" refX=\"7\" refY=\"4\" markerWidth=\"7\" markerHeight=\"7\" orient=\"auto\"><path class=\"head bad\" d=\"M0 0L8 4L0 8z\"/></marker>\
    </defs></svg>";

#[cfg(test)]
mod tests {
    use super::*;
    use LockClass::{IMmapRwsem, IRwsem, Ilock, InvalidateLock};

    #[test]
    fn only_edges_on_a_cycle_are_marked() {
        let edges: Edges = [
            ((IRwsem, InvalidateLock), 3),
            ((InvalidateLock, Ilock), 2),
            ((Ilock, InvalidateLock), 1),
            ((Ilock, IMmapRwsem), 1),
            ((Ilock, Ilock), 1),
        ]
        .into();
        let bad = cyclic(&edges);
        assert_eq!(
            bad.into_iter().collect::<Vec<_>>(),
            [(InvalidateLock, Ilock), (Ilock, InvalidateLock)]
        );
    }
}
