//! What all of a run's threads have in common and nobody changes.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::Options;
use super::block::Key;
use super::error::Error;
use super::sandbox::Sandbox;
use super::stage::Stage;

/// The surroundings of a run.
pub struct Scene {
    /// As asked for.
    pub options: Options,
    /// How many actors there are.
    pub actors: usize,
    /// Counters, the stop flag, what was found.
    pub stage: Arc<Stage>,
    /// Where the files are.
    pub sandbox: Arc<Sandbox>,
    /// Its filesystem's name.
    pub filesystem: String,
    /// Whether new files there are accessed without page cache.
    pub dax: bool,
    /// An act that the filesystem refuses is left out, and the rest go on.
    pub mixed: AtomicBool,
    /// What makes this run's stamps differ from another's.
    pub key: Key,
}

impl Scene {
    /// The error for what this filesystem cannot do.
    pub fn unsupported(&self, operation: &'static str, hint: Option<&'static str>) -> Error {
        Error::Unsupported {
            filesystem: self.filesystem.clone(),
            operation,
            hint,
        }
    }
}
