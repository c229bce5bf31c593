//! The guest's serial console and kernel log: stages, and reports that the kernel
//! itself makes of its state.

use std::collections::BTreeSet;

use super::job::CONSOLE_PREFIX;

/// Starts of a kernel message that no healthy kernel prints.
const SPLAT_STARTS: &[&str] = &[
    "Kernel panic - not syncing",
    "BUG: ",
    "kernel BUG at ",
    "Oops: ",
    "WARNING: ",
    "general protection fault",
    "watchdog: BUG: ",
    "rcu: INFO: ",
    "INFO: rcu",
    "UBSAN: ",
    "KASAN: ",
    "KCSAN: ",
    "DEBUG_LOCKS_WARN_ON",
    "DEBUG_RWSEMS_WARN_ON",
    "[ BUG: ",
    "INFO: trying to register non-static key",
    "XFS: Assertion failed",
    "EXT4-fs error",
    "EXT4-fs warning",
];

/// Pieces that mark such a message wherever they stand.
const SPLAT_PIECES: &[&str] = &[
    "blocked for more than",
    "): Internal error ",
    "): Metadata corruption detected",
    "): Corruption of in-memory data",
    "Shutting down filesystem",
    "stack segment: ",
    "invalid opcode: ",
];

/// Starts of those that a kernel which was not run for a while makes of itself
/// (kernel/watchdog.c, kernel/rcu/tree_stall.h, kernel/workqueue.c).
const STALL_STARTS: &[&str] = &[
    "rcu: INFO: ",
    "INFO: rcu",
    "watchdog: BUG: soft lockup",
    "BUG: workqueue lockup",
];

/// Starts of those that an oops follows, which ends the task (arch/x86/mm/fault.c, lib/bug.c).
const FATAL_STARTS: &[&str] = &["BUG: ", "kernel BUG at "];

/// A line of the console.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The guest program reached a stage.
    Stage(String),
    /// The guest program failed.
    Error(String),
    /// Anything else.
    Other(String),
}

/// Says what a console line is; removes control sequences.
pub fn classify(line: &str) -> Line {
    let clean = clean(line);
    // The kernel's messages may share a line with the guest's.
    if let Some(at) = clean.find(CONSOLE_PREFIX) {
        let message = &clean[at + CONSOLE_PREFIX.len()..];
        if let Some(stage) = message.strip_prefix("stage ") {
            return Line::Stage(stage.to_owned());
        }
        if let Some(error) = message.strip_prefix("error: ") {
            return Line::Error(error.to_owned());
        }
    }
    Line::Other(clean)
}

/// Whether the kernel killed a process, or gave up, for want of memory (mm/oom_kill.c).
pub fn ran_out_of_memory(text: &str) -> bool {
    text.lines().any(|line| {
        message_of(&clean(line)).is_some_and(|message| {
            message.starts_with("Out of memory: Killed process")
                || message.starts_with("Out of memory and no killable processes")
                || message.starts_with("Kernel panic - not syncing: Out of memory:")
        })
    })
}

/// Whether a line is the kernel's last word.
pub fn is_panic(line: &str) -> bool {
    message_of(line).is_some_and(|message| message.starts_with("Kernel panic - not syncing"))
}

/// What the console showed from the start of a round on; nothing if the round never began.
pub fn part_of<'a>(console: &'a [u8], round: &str) -> &'a [u8] {
    let mark = format!("{CONSOLE_PREFIX}stage round {round}");
    let starts = |line: &[u8]| {
        line.windows(mark.len())
            .any(|window| window == mark.as_bytes())
            && String::from_utf8_lossy(line).trim_end().ends_with(&mark)
    };
    let mut at = 0;
    for line in console.split_inclusive(|byte| *byte == b'\n') {
        if starts(line) {
            return &console[at..];
        }
        at += line.len();
    }
    &[]
}

/// Lines of a complaint, registers and all, before its call trace is given up.
const COMPLAINT_LINES: usize = 60;
/// Callers that are told.
const CALLERS: usize = 6;

/// What an oops begins with; where it is about something that the kernel has just told, it is of the same complaint.
const OOPS: &str = "Oops: ";

/// The kernel's complaints in a console or kernel log, without time stamps, each once. Where the kernel
/// printed how it got there, that is the second line: `called by`, innermost first.
pub fn splats(text: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let lines: Vec<String> = text.lines().map(clean).collect();
    let complaint = |line: &str| {
        let message = message_of(line)?;
        let hit = SPLAT_STARTS.iter().any(|start| message.starts_with(start))
            || SPLAT_PIECES.iter().any(|piece| message.contains(piece));
        hit.then(|| without_build_place(message))
    };
    let mut splats = Vec::new();
    let mut cause: Option<usize> = None;
    for (at, line) in lines.iter().enumerate() {
        let Some(message) = complaint(line) else {
            continue;
        };
        let follows = cause.is_some_and(|cause| at - cause <= COMPLAINT_LINES);
        if message.starts_with(OOPS) && follows {
            cause = None;
            continue;
        }
        cause = is_fatal(&message).then_some(at);
        if !seen.insert(message.clone()) {
            continue;
        }
        let mut splat = message;
        let rest: Vec<&str> = lines[at + 1..]
            .iter()
            .take_while(|line| complaint(line).is_none_or(|message| message.starts_with(OOPS)))
            .take(COMPLAINT_LINES)
            .filter_map(|line| message_of(line))
            .collect();
        if !splat.contains(" at ")
            && let Some(place) = rest
                .iter()
                .find_map(|message| message.strip_prefix("RIP: 0010:"))
        {
            splat.push_str(" at ");
            splat.push_str(place.trim_end());
        }
        let callers = callers(rest.iter().copied());
        if !callers.is_empty() {
            splat.push_str("\n    called by ");
            splat.push_str(&callers.join(" < "));
        }
        splats.push(splat);
    }
    splats
}

/// The innermost functions of the first call trace: neither guesses of the unwinder (`?`) nor eBPF's own.
fn callers<'t>(messages: impl Iterator<Item = &'t str>) -> Vec<&'t str> {
    messages
        .skip_while(|message| !message.starts_with("Call Trace:"))
        .skip(1)
        .map(str::trim_start)
        .skip_while(|message| *message == "<TASK>")
        .take_while(|message| *message != "</TASK>")
        .filter_map(|message| message.split_once("+0x").map(|(symbol, _)| symbol))
        .filter(|symbol| !symbol.starts_with('?') && !symbol.contains("bpf_"))
        .take(CALLERS)
        .collect()
}

/// Whether a complaint is about time only, so that a host too busy to run the guest may be its cause.
/// A task that is blocked is none: it waits for another.
pub fn is_stall(splat: &str) -> bool {
    STALL_STARTS.iter().any(|start| splat.starts_with(start))
}

/// Whether a complaint is one that the task which made it does not survive.
pub fn is_fatal(splat: &str) -> bool {
    FATAL_STARTS.iter().any(|start| splat.starts_with(start))
}

/// A module that was built alone names its sources by where that was: leaves `fs/xfs/xfs_inode.c`.
fn without_build_place(message: &str) -> String {
    let place = message.find(" at /").map(|at| at + " at ".len());
    let sources = place.and_then(|place| {
        let path = message[place..].split(':').next()?;
        Some((place, place + path.rfind("/fs/")? + 1))
    });
    match sources {
        Some((place, sources)) => format!("{}{}", &message[..place], &message[sources..]),
        None => message.to_owned(),
    }
}

/// The text after `[   12.345678]` and, if there, `[   T123]`; `None` if the kernel did
/// not print the line, so that a program's output is never taken for a complaint.
pub(super) fn message_of(line: &str) -> Option<&str> {
    // klogctl prefixes the level.
    let line = match line.strip_prefix('<').and_then(|rest| rest.split_once('>')) {
        Some((level, rest)) if level.bytes().all(|byte| byte.is_ascii_digit()) => rest,
        _ => line,
    };
    let (stamp, mut message) = line.trim_start().strip_prefix('[')?.split_once(']')?;
    stamp.trim().parse::<f64>().ok()?;
    message = message.trim_start();
    if let Some((caller, rest)) = message
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
        && caller.trim().starts_with(['T', 'C'])
        && caller.trim()[1..].bytes().all(|byte| byte.is_ascii_digit())
    {
        message = rest.trim_start();
    }
    Some(message)
}

/// Removes terminal sequences and other control characters.
pub(super) fn clean(line: &str) -> String {
    let mut clean = String::with_capacity(line.len());
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            if characters.next_if(|next| matches!(next, '[' | 'c')) == Some('[') {
                while characters
                    .next()
                    .is_some_and(|next| !next.is_ascii_alphabetic())
                {}
            }
        } else if !character.is_control() || character == '\t' {
            clean.push(character);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = "\
\x1bc\x1b[?7l\x1b[2J\x1b[0mSeaBIOS (version 1.16.2-debian-1.16.2-1)
[    0.000000] Linux version 6.12.117+deb12-amd64
[    0.512000] RETBleed: WARNING: Spectre v2 mitigation leaves CPU vulnerable
[    2.300000] XFS (pmem0): Mounting V5 Filesystem 1f
WARNING: mkfs: this comes from a program
[    9.100000] WARNING: CPU: 1 PID: 88 at fs/xfs/xfs_inode.c:307 xfs_assert_ilocked+0x3f/0x70 [xfs]
[    9.100001] Modules linked in: xfs
[    9.100000] WARNING: CPU: 1 PID: 88 at fs/xfs/xfs_inode.c:307 xfs_assert_ilocked+0x3f/0x70 [xfs]
<4>[   10.000000][   T99] WARNING: fs/dax.c:452 at dax_disassociate_entry+0x7a/0xc0
[   11.000000] BUG: kernel NULL pointer dereference, address: 0000000000000010
[   11.000001] Oops: Oops: 0000 [#1] PREEMPT SMP NOPTI
[   11.000002] RIP: 0010:__block_write_begin_int+0x38c/0x5d0
[   12.000000] Oops: general protection fault, probably for non-canonical address 0xdead
[   42.000000] INFO: task fault:91 blocked for more than 30 seconds.
[   50.000000] XFS (pmem0): Internal error ltbno + ltlen > bno at line 1940
[   60.000000] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b
";

    #[test]
    fn the_kernels_complaints_are_found_once_each() {
        let splats = splats(CONSOLE);
        let starts = [
            "WARNING: CPU: 1 PID: 88",
            "WARNING: fs/dax.c:452",
            "BUG: kernel NULL pointer dereference, address: 0000000000000010 at __block_write_begin_int+0x38c/0x5d0",
            "Oops: general protection fault",
            "INFO: task fault:91 blocked",
            "XFS (pmem0): Internal error",
            "Kernel panic - not syncing",
        ];
        assert_eq!(splats.len(), starts.len(), "{splats:#?}");
        for (splat, start) in splats.iter().zip(starts) {
            assert!(splat.starts_with(start), "{splat}");
        }
    }

    #[test]
    fn a_complaint_says_how_it_came_about() {
        let console = "\
<4>[   22.282835] WARNING: fs/dax.c:452 at dax_disassociate_entry.isra.0+0x9c/0xc0, CPU#0: actor-0/116
<4>[   22.283359] Modules linked in: xfs
<4>[   22.285865] RIP: 0010:dax_disassociate_entry.isra.0+0x9c/0xc0
<4>[   22.287651] Call Trace:
<4>[   22.287770]  <TASK>
<4>[   22.287898]  __dax_invalidate_entry+0x92/0x1d0
<4>[   22.288175]  bpf_trampoline_6442543010+0xcb/0x1b3
<4>[   22.288401]  ? __xfs_trans_commit+0x10f/0x3c0 [xfs]
<4>[   22.288501]  xfs_file_dax_write+0x10f/0x3c0 [xfs]
<4>[   22.288601]  </TASK>
<4>[   22.288701]  not_of_it+0x10f/0x3c0 [xfs]
[   50.000000] XFS (pmem0): Internal error ltbno + ltlen > bno at line 1940
";
        assert_eq!(
            splats(console),
            [
                "WARNING: fs/dax.c:452 at dax_disassociate_entry.isra.0+0x9c/0xc0, CPU#0: actor-0/116\n    \
                 called by __dax_invalidate_entry < xfs_file_dax_write",
                "XFS (pmem0): Internal error ltbno + ltlen > bno at line 1940",
            ]
        );
    }

    #[test]
    fn a_stall_is_told_from_other_complaints() {
        let console = "\
[  21.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:
[  22.0] watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [faultline:123]
[  23.0] INFO: task fault:91 blocked for more than 30 seconds.
[  24.0] BUG: unable to handle page fault for address: ffffc90000000000
";
        let stalls: Vec<_> = splats(console)
            .iter()
            .map(|splat| is_stall(splat))
            .collect();
        assert_eq!(stalls, [true, true, false, false]);
    }

    #[test]
    fn want_of_memory_is_told_from_other_ends() {
        for line in [
            "[    9.1] Out of memory: Killed process 90 (tail) total-vm:1kB",
            "[    9.1] Out of memory and no killable processes...",
            "[    9.1] Kernel panic - not syncing: Out of memory: system-wide panic_on_oom is enabled",
        ] {
            assert!(ran_out_of_memory(line), "{line}");
        }
        assert!(!ran_out_of_memory(CONSOLE));
        assert!(!ran_out_of_memory("dd: out of memory"));
    }

    #[test]
    fn a_complaint_does_not_depend_on_where_a_module_was_built() {
        let built = |place: &str| {
            splats(&format!(
                "[    1.0] WARNING: CPU: 1 PID: 8 at {place}fs/ext4/ext4_jbd2.c:73 ext4_journal_check_start+0xa9/0xc0 [ext4]"
            ))
        };
        let plain = built("");
        assert!(
            plain[0].contains(" at fs/ext4/ext4_jbd2.c:73 "),
            "{plain:?}"
        );
        assert_eq!(built("/home/me/cache/modules/x/tree/"), plain);
        assert_eq!(built("/fs/tree/"), plain);
    }

    #[test]
    fn a_round_has_its_part_of_the_console() {
        let console =
            b"boot\nfaultline-guest: stage round ab\r\none\nfaultline-guest: stage round a\ntwo\n";
        assert_eq!(
            part_of(console, "a"),
            b"faultline-guest: stage round a\ntwo\n"
        );
        assert!(part_of(console, "ab").ends_with(b"two\n"));
        assert!(part_of(console, "b").is_empty());
    }

    #[test]
    fn lines_of_the_guest_are_told_apart() {
        assert_eq!(
            classify("faultline-guest: stage modules\r"),
            Line::Stage("modules".into())
        );
        assert_eq!(
            classify("[    2.0] x faultline-guest: error: mount failed"),
            Line::Error("mount failed".into())
        );
        assert_eq!(classify("\x1b[2Jplain"), Line::Other("plain".into()));
    }
}
