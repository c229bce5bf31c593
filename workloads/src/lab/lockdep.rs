//! What the kernel's lock validator says in the kernel log.

use std::fmt;

use super::console::{clean, message_of};

/// A piece of a report's first line, and the report in short (kernel/locking/lockdep.c, rwsem.c;
/// kernel/sched/core.c).
const HEADLINES: &[(&str, &str)] = &[
    (
        "WARNING: possible circular locking dependency detected",
        "possible circular locking dependency",
    ),
    (
        "WARNING: possible recursive locking detected",
        "possible recursive locking",
    ),
    ("WARNING: bad unlock balance detected", "bad unlock balance"),
    (
        "WARNING: bad contention detected",
        "contention on a lock not held",
    ),
    (
        "WARNING: lock held when returning to user space",
        "lock held when returning to user space",
    ),
    (" still has locks held!", "task still has locks held"),
    ("WARNING: held lock freed", "held lock freed"),
    (
        "WARNING: Nested lock was not taken",
        "nested lock was not taken",
    ),
    (
        "WARNING: inconsistent lock state",
        "inconsistent lock state",
    ),
    ("-unsafe lock order detected", "irq-unsafe lock order"),
    (
        "WARNING: possible irq lock inversion dependency detected",
        "possible irq lock inversion",
    ),
    ("[ BUG: Invalid wait context ]", "invalid wait context"),
    ("WARNING: suspicious RCU usage", "suspicious RCU usage"),
    ("WARNING: chain_key collision", "chain key collision"),
    (
        "INFO: trying to register non-static key",
        "lock without a class",
    ),
    ("DEBUG_LOCKS_WARN_ON(", "DEBUG_LOCKS_WARN_ON"),
    ("DEBUG_RWSEMS_WARN_ON(", "DEBUG_RWSEMS_WARN_ON"),
    (
        "BUG: sleeping function called from invalid context",
        "sleeping function called from invalid context",
    ),
    ("BUG: MAX_LOCKDEP_", "out of memory for locks"),
    (
        "BUG: MAX_STACK_TRACE_ENTRIES too low",
        "out of memory for stacks",
    ),
];

/// Where a warning comes from that belongs to a report.
const OWN_SOURCES: &str = " at kernel/locking/";

/// What the validator says once, before it turns itself off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// In short: `possible circular locking dependency`.
    pub kind: &'static str,
    /// First line, as the kernel printed it.
    pub headline: String,
    /// Classes of the first locks named, at most two: the one being acquired, then the one held.
    pub locks: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind)?;
        match self.locks.as_slice() {
            [] => Ok(()),
            [one] => write!(f, ": {one}"),
            [wanted, held, ..] => write!(f, ": {wanted} under {held}"),
        }
    }
}

/// The reports in a kernel log, in order.
pub fn reports(log: &str) -> Vec<Report> {
    let mut reports: Vec<Report> = Vec::new();
    for line in log.lines() {
        let line = clean(line);
        let Some(message) = message_of(&line) else {
            continue;
        };
        if let Some(kind) = kind_of(message) {
            reports.push(Report {
                kind,
                headline: message.to_owned(),
                locks: Vec::new(),
            });
        } else if let Some(report) = reports.last_mut()
            && report.locks.len() < 2
            && let Some(lock) = lock_of(message)
        {
            report.locks.push(lock.to_owned());
        }
    }
    reports
}

/// Whether a complaint of the kernel is the validator's.
pub fn is_report(message: &str) -> bool {
    kind_of(message).is_some() || message.contains(OWN_SOURCES)
}

fn kind_of(message: &str) -> Option<&'static str> {
    HEADLINES
        .iter()
        .find(|(piece, _)| message.contains(piece))
        .map(|(_, kind)| *kind)
}

/// The class in `ffff888003a1b2c8 (&sb->s_type->i_mutex_key#8){++++}-{3:3}, at: f+0x1` (print_lock) or in
/// `sh/7 is trying to release lock (&sb->s_type->i_mutex_key) at:`.
fn lock_of(message: &str) -> Option<&str> {
    let end = message
        .find("){")
        .filter(|_| message.contains(", at: "))
        .or_else(|| {
            message
                .contains(" is trying to release lock (")
                .then(|| message.rfind(") at:"))
                .flatten()
        })?;
    let start = message[..end].find(" (")? + 2;
    // A number tells classes of one name apart, and is another in another boot.
    let name = &message[start..end];
    Some(name.split('#').next().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As klogctl gives it: level, stamp, message.
    const CIRCULAR: &str = "\
<4>[   24.101000] \n\
<4>[   24.101001] ======================================================
<4>[   24.101002] WARNING: possible circular locking dependency detected
<4>[   24.101003] 6.12.117-lockdep #1 Tainted: G           O      
<4>[   24.101004] ------------------------------------------------------
<4>[   24.101005] manipulator/152 is trying to acquire lock:
<4>[   24.101006] ffff88800a5b6d78 (&sb->s_type->i_mutex_key#14){++++}-{4:4}, at: xfs_ilock+0x9e/0x110 [xfs]
<4>[   24.101007] 
<4>[   24.101007] but task is already holding lock:
<4>[   24.101008] ffff88800a5b6ef0 (mapping.invalidate_lock#3){++++}-{4:4}, at: xfs_file_fallocate+0x61/0x3f0 [xfs]
<4>[   24.101009] which lock already depends on the new lock.
<4>[   24.101010] -> #1 (mapping.invalidate_lock#3){++++}-{4:4}:
<4>[   24.101011]  #0: ffff88800a1 (sb_writers#9){.+.+}-{0:0}, at: vfs_fallocate+0x1
";

    const LEAK: &str = "\
[   30.5] ================================================
[   30.5] WARNING: lock held when returning to user space!
[   30.5] 6.12.117-lockdep #1 Tainted: G           O      
[   30.5] ------------------------------------------------
[   30.5] actor-0/160 is leaving the kernel with locks still held!
[   30.5] 1 lock held by actor-0/160:
[   30.5]  #0: ffff888005f3c1f0 (mapping.invalidate_lock#2){++++}-{4:4}, at: xfs_setattr_size+0x5c
";

    const BALANCE: &str = "\
[   30.5] WARNING: bad unlock balance detected!
[   30.5] 6.12.117-lockdep #1 Tainted: G           O      
[   30.5] actor-0/160 is trying to release lock (mapping.invalidate_lock) at:
[   30.5] [<ffffffffc01>] xfs_iunlock+0x8e/0x100 [xfs]
[   30.5] but there are no more locks to release!
[   31.0] ------------[ cut here ]------------
[   31.0] DEBUG_RWSEMS_WARN_ON((rwsem_owner(sem) != current) && !rwsem_test_oflags(sem, RWSEM_NONSPINNABLE)): count = 0x0
[   31.0] WARNING: CPU: 0 PID: 160 at kernel/locking/rwsem.c:1369 up_write+0x1
";

    #[test]
    fn a_report_names_its_kind_and_its_locks() {
        let told = |log| -> Vec<String> { reports(log).iter().map(ToString::to_string).collect() };
        assert_eq!(
            told(CIRCULAR),
            [
                "possible circular locking dependency: &sb->s_type->i_mutex_key under \
                 mapping.invalidate_lock"
            ]
        );
        assert_eq!(
            told(LEAK),
            ["lock held when returning to user space: mapping.invalidate_lock"]
        );
        assert_eq!(
            told(BALANCE),
            [
                "bad unlock balance: mapping.invalidate_lock",
                "DEBUG_RWSEMS_WARN_ON"
            ]
        );
        assert_eq!(
            reports(LEAK)[0].headline,
            "WARNING: lock held when returning to user space!"
        );
    }

    #[test]
    fn what_others_say_is_no_report() {
        let others = "\
WARNING: possible recursive locking detected, says a program
[    9.1] WARNING: CPU: 1 PID: 88 at fs/xfs/xfs_inode.c:307 xfs_assert_ilocked+0x3f/0x70 [xfs]
[    9.2] ffff88800a5b6d78 (not a report){++++}-{4:4}, at: f+0x1
[    9.3] INFO: task fault:91 blocked for more than 30 seconds.
";
        assert!(reports(others).is_empty());
        assert!(!is_report("WARNING: CPU: 1 PID: 88 at fs/dax.c:452 f+0x1"));
        assert!(is_report(
            "WARNING: CPU: 0 PID: 160 at kernel/locking/rwsem.c:1369 up_write+0x1"
        ));
    }

    #[test]
    fn every_report_is_a_complaint_for_the_console_too() {
        for (piece, kind) in HEADLINES {
            let line = match *kind {
                "task still has locks held" => format!("[    1.0] WARNING: sh/7{piece}"),
                "irq-unsafe lock order" => {
                    format!("[    1.0] WARNING: HARDIRQ-safe -> HARDIRQ{piece}")
                }
                _ => format!("[    1.0] {piece}"),
            };
            assert_eq!(reports(&line).len(), 1, "{line}");
            assert_eq!(super::super::console::splats(&line).len(), 1, "{line}");
        }
    }
}
