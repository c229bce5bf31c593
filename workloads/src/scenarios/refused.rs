//! Operations that the kernel refuses only after it has taken their locks: on the way out of an
//! error one may be left held, and every later fault on the file hangs.

use std::fs::File;
use std::io;
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, fallocate};

use super::error::Error;
use super::extents::{Operation, swap_part, swap_stale};
use super::faulter::Habit;
use super::kernel;
use super::ledger::Family;
use super::pages::{PAGE, PageRange};
use super::setup::{Cast, Setup, solo};
use super::target::Target;
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "refused-vs-fault",
    summary: "ask for what the kernel refuses only under its locks, while threads load and store",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

/// Something that must fail.
struct Refusal {
    operation: Operation,
    /// Known there only.
    filesystem: Option<&'static str>,
    errnos: &'static [i32],
    /// Only a hole makes it do anything.
    in_hole: bool,
    /// With the range that faults come to.
    call: fn(&Files, PageRange) -> io::Result<()>,
}

struct Files {
    target: Arc<Target>,
    /// The same, for direct I/O.
    direct: File,
    other: Arc<Target>,
    /// Has no name.
    nameless: File,
}

const fn anywhere(
    operation: Operation,
    errnos: &'static [i32],
    call: fn(&Files, PageRange) -> io::Result<()>,
) -> Refusal {
    Refusal {
        operation,
        filesystem: None,
        errnos,
        in_hole: false,
        call,
    }
}

/// Of XFS; some have no shared blocks.
const fn no_clone(call: fn(&Files, PageRange) -> io::Result<()>) -> Refusal {
    Refusal {
        filesystem: Some("xfs"),
        ..anywhere(
            Operation::CloneError,
            &[libc::EINVAL, libc::EOPNOTSUPP],
            call,
        )
    }
}

const COLLAPSE: FallocateFlags = FallocateFlags::FALLOC_FL_COLLAPSE_RANGE;
const INSERT: FallocateFlags = FallocateFlags::FALLOC_FL_INSERT_RANGE;

const REFUSALS: &[Refusal] = &[
    // Nothing would be left to move (fs/xfs/xfs_file.c:xfs_falloc_collapse_range,
    // fs/ext4/extents.c:ext4_collapse_range).
    anywhere(Operation::CollapseError, &[libc::EINVAL], |files, _| {
        allocate(&files.target, COLLAPSE, files.target.size() - PAGE, PAGE)
    }),
    // Nothing is there to be moved.
    anywhere(Operation::InsertError, &[libc::EINVAL], |files, _| {
        allocate(&files.target, INSERT, files.target.size(), PAGE)
    }),
    // The file would become larger than any may.
    anywhere(Operation::InsertError, &[libc::EFBIG], |files, _| {
        allocate(
            &files.target,
            INSERT,
            0,
            i64::MAX as u64 / PAGE * PAGE - PAGE,
        )
    }),
    // Blocks are reserved, or allocated, before the data turns out to be nowhere
    // (fs/xfs/xfs_iomap.c:xfs_buffered_write_iomap_end).
    Refusal {
        in_hole: true,
        ..anywhere(Operation::WriteError, &[libc::EFAULT], |files, range| {
            kernel::write_from_nowhere(&files.target.file, range.offset(), range.bytes())
        })
    },
    // Beyond EOF they are given back (fs/ext4/truncate.h:ext4_truncate_failed_write).
    anywhere(Operation::WriteError, &[libc::EFAULT], |files, range| {
        kernel::write_from_nowhere(&files.direct, files.target.size(), range.bytes())
    }),
    Refusal {
        filesystem: Some("xfs"),
        // EINVAL if the two cannot be exchanged at all just now.
        ..anywhere(
            Operation::SwapError,
            &[libc::EBUSY, libc::EINVAL],
            |files, _| swap_stale(&files.target.file, &files.other.file),
        )
    },
    // No block begins there (fs/remap_range.c:generic_remap_checks).
    no_clone(|files, range| {
        let offset = range.offset() + PAGE / 8;
        kernel::clone_range(
            (&files.other.file, offset),
            (&files.target.file, offset),
            PAGE,
        )
    }),
    // Blocks would be shared with themselves.
    no_clone(|files, range| {
        let (file, offset) = (&*files.target.file, range.offset());
        kernel::clone_range((file, offset), (file, offset + PAGE), 2 * PAGE)
    }),
    // There are none.
    no_clone(|files, range| {
        let end = files.other.size();
        kernel::clone_range(
            (&files.other.file, end),
            (&files.target.file, range.offset()),
            PAGE,
        )
    }),
    // fs/xfs/xfs_bmap_util.c:xfs_swap_extents
    Refusal {
        filesystem: Some("xfs"),
        ..anywhere(
            Operation::SwapError,
            &[libc::EFAULT, libc::EINVAL],
            |files, _| swap_part(&files.target.file, &files.other.file),
        )
    },
    // fs/xfs/xfs_exchrange.c:xfs_exchange_range_checks
    Refusal {
        filesystem: Some("xfs"),
        // Some cannot exchange ranges, nor can older kernels.
        ..anywhere(
            Operation::ExchangeError,
            &[libc::EINVAL, libc::EOPNOTSUPP, libc::ENOTTY],
            |files, range| {
                let offset = range.offset() + PAGE / 8;
                kernel::exchange_range(
                    (&files.other.file, offset),
                    (&files.target.file, offset),
                    PAGE,
                )
            },
        )
    },
    // fs/ext4/ioctl.c:swap_inode_boot_loader
    Refusal {
        filesystem: Some("ext4"),
        ..anywhere(Operation::SwapBootError, &[libc::EINVAL], |files, _| {
            kernel::swap_boot(&files.nameless)
        })
    },
];

fn allocate(target: &Target, how: FallocateFlags, offset: u64, length: u64) -> io::Result<()> {
    let (offset, length) = (offset as libc::off_t, length as libc::off_t);
    Ok(fallocate(&target.file, how, offset, length)?)
}

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    let files = Files {
        direct: setup.direct(&target)?,
        other: setup.file(Family::Fixed, 0, Habit::default())?,
        nameless: setup.nameless()?,
        target: target.clone(),
    };
    let filesystem = setup.scene().filesystem.clone();
    let known: Vec<&Refusal> = REFUSALS
        .iter()
        .filter(|refusal| refusal.filesystem.is_none_or(|only| only == filesystem))
        .collect();
    Ok(solo(move |run| {
        let refusal = known[run.rng().below(known.len() as u32) as usize];
        let range = run.aim(&target);
        if refusal.in_hole {
            run.punch(&target, range)?;
        }
        run.apply(
            refusal.operation,
            &target,
            target.whole(),
            || match (refusal.call)(&files, range) {
                Err(error) => match error.raw_os_error() {
                    Some(errno) if refusal.errnos.contains(&errno) => Ok(()),
                    _ => Err(error),
                },
                Ok(()) => Err(io::Error::other("it was not refused")),
            },
        )?;
        if run.rng().one_in(4) {
            run.punch(&target, range)?;
        }
        Ok(())
    }))
}
