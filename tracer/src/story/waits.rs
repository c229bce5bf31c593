//! Since when tasks wait, for faces that show a wait once it is over.

use std::collections::HashMap;

use crate::{
    judge::{Resource, TaskId},
    units::Nanos,
};

/// Who waits for what.
#[derive(Debug, Default)]
pub struct Waits {
    by_task: HashMap<TaskId, (Resource, Nanos)>,
}

impl Waits {
    /// A task begins to wait.
    pub fn begin(&mut self, task: TaskId, resource: Resource, at: Nanos) {
        self.by_task.insert(task, (resource, at));
    }

    /// The task has it now: since when it had waited, if it did.
    pub fn end(&mut self, task: TaskId, resource: Resource) -> Option<Nanos> {
        let &(of, from) = self.by_task.get(&task)?;
        (of == resource).then(|| {
            self.by_task.remove(&task);
            from
        })
    }

    /// Nothing is known of the task any more.
    pub fn forget(&mut self, task: TaskId) {
        self.by_task.remove(&task);
    }
}
