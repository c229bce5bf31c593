//! Who waits for whom, as it stands; cycles first.

use std::collections::{BTreeMap, BTreeSet};

use ratatui::{Frame, layout::Rect, text::Line, text::Span};
use tracer::{
    judge::{Resource, Stake, excludes, text::duration},
    story::{Story, TaskId},
};

use super::{Canvas, below_head, list};
use crate::tui::{State, palette::Role};

/// One task waiting for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Edge {
    waiter: TaskId,
    holder: TaskId,
    resource: Resource,
    since: u64,
}

fn edges(stakes: &[Stake]) -> Vec<Edge> {
    let mut edges = Vec::new();
    for waiter in stakes.iter().filter(|stake| stake.wants.is_some()) {
        for holder in stakes.iter().filter(|stake| stake.wants.is_none()) {
            if holder.resource == waiter.resource
                && holder.task != waiter.task
                && excludes(holder.mode, waiter.mode)
            {
                edges.push(Edge {
                    waiter: waiter.task,
                    holder: holder.task,
                    resource: waiter.resource,
                    since: waiter.since.0,
                });
            }
        }
    }
    edges
}

/// A resource, for people.
fn name(story: &Story, resource: Resource) -> String {
    let owner = story.owner_name(resource.owner);
    format!("{} of {owner}", resource.class.name())
}

/// Tasks from which a way leads back to themselves.
fn cyclic(edges: &[Edge]) -> BTreeSet<TaskId> {
    let mut next: BTreeMap<TaskId, Vec<TaskId>> = BTreeMap::new();
    for edge in edges {
        next.entry(edge.waiter).or_default().push(edge.holder);
    }
    let returns = |start: TaskId| {
        let mut seen = BTreeSet::new();
        let mut open = next.get(&start).cloned().unwrap_or_default();
        while let Some(task) = open.pop() {
            if task == start {
                return true;
            }
            if seen.insert(task) {
                open.extend(next.get(&task).into_iter().flatten());
            }
        }
        false
    };
    next.keys().copied().filter(|&task| returns(task)).collect()
}

pub fn draw(frame: &mut Frame<'_>, area: Rect, canvas: &Canvas<'_>, state: &mut State) {
    let story = &canvas.model.story;
    let stakes = story.judge().stakes();
    let mut edges = edges(&stakes);
    let cyclic = cyclic(&edges);
    edges.sort_by_key(|edge| (!cyclic.contains(&edge.waiter), edge.since));
    let now = story.statistics().now().0;
    let (head, body) = below_head(area);
    let waits = stakes.iter().filter(|stake| stake.wants.is_some()).count();
    let title = match (waits, cyclic.len()) {
        (0, _) => " nobody waits at this moment".to_owned(),
        (waits, 0) => format!(" {waits} waits, no cycle"),
        (waits, tasks) => format!(" {waits} waits, {tasks} tasks in a cycle: DEADLOCK"),
    };
    let role = if cyclic.is_empty() {
        Role::Head
    } else {
        Role::Bad
    };
    frame.render_widget(Line::from(canvas.styled(title, role)), head);
    let mut rows: Vec<Line<'static>> = edges
        .iter()
        .map(|edge| {
            let bad = cyclic.contains(&edge.waiter) && cyclic.contains(&edge.holder);
            let text = format!(
                " {} ──▶ {}   {}, for {}{}",
                story.task_name(edge.waiter),
                story.task_name(edge.holder),
                name(story, edge.resource),
                duration(now.saturating_sub(edge.since)),
                if bad { "   CYCLE" } else { "" }
            );
            let role = if bad { Role::Bad } else { Role::Unsure };
            Line::from(canvas.styled(text, role))
        })
        .collect();
    // Behind a reader that waits there may be a writer that waits, or somebody who was not seen.
    for waiter in stakes.iter().filter(|stake| stake.wants.is_some()) {
        if edges.iter().all(|edge| edge.waiter != waiter.task) {
            rows.push(Line::from(canvas.styled(
                format!(
                    " {} ──▶ ?   {}, for {}",
                    story.task_name(waiter.task),
                    name(story, waiter.resource),
                    duration(now.saturating_sub(waiter.since.0))
                ),
                Role::Unsure,
            )));
        }
    }
    let mut holders: Vec<&Stake> = stakes
        .iter()
        .filter(|stake| stake.wants.is_none())
        .collect();
    holders.sort_by_key(|stake| stake.since);
    for holder in holders {
        rows.push(Line::from(vec![
            Span::raw(format!(" {}", story.task_name(holder.task))),
            canvas.dim(format!(
                " holds {} {} for {}",
                name(story, holder.resource),
                holder.mode.name(),
                duration(now.saturating_sub(holder.since.0)),
            )),
        ]));
    }
    let rows = rows
        .into_iter()
        .filter(|row| state.passes(&row.to_string()))
        .collect();
    list::draw(frame, body, canvas, state, rows);
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracer::{hooks::LockClass, judge::Owner, units::Tid};

    fn edge(waiter: u32, holder: u32) -> Edge {
        let task = |tid| TaskId {
            tid: Tid(tid),
            reuse: 0,
        };
        Edge {
            waiter: task(waiter),
            holder: task(holder),
            resource: Resource {
                class: LockClass::MmapLock,
                owner: Owner::Process(1),
            },
            since: 0,
        }
    }

    #[test]
    fn only_those_in_the_cycle_are_in_it() {
        let edges = [edge(1, 2), edge(2, 3), edge(3, 2), edge(4, 1)];
        let tids: Vec<u32> = cyclic(&edges).into_iter().map(|task| task.tid.0).collect();
        assert_eq!(tids, [2, 3]);
        assert!(cyclic(&edges[..2]).is_empty());
    }
}
