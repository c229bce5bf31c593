//! What the lab is doing right now, for a caller that draws it.

use super::qemu::Accelerator;

/// One step of the lab's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// A package is being fetched and unpacked; its name and version.
    Downloading(String),
    /// A filesystem module is being compiled; which one, and for which kernel.
    BuildingModule(String),
    /// A whole kernel is being compiled; which one.
    BuildingKernel(String),
    /// QEMU was started.
    Booting {
        /// Release of the kernel being booted.
        release: String,
        /// How the guest's instructions are executed.
        accelerator: Accelerator,
    },
    /// The guest reached a stage, in its own words.
    Stage(String),
    /// A line of the guest's serial console that is not a stage.
    Console(String),
    /// Something the user should know, though the work goes on.
    Note(String),
}

/// Receives [`Progress`].
pub type ProgressFn<'a> = dyn FnMut(Progress) + 'a;
