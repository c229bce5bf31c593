//! How long the host kept a guest's processors waiting for one of its own.
//!
//! A kernel that stands still because its emulator does not run complains as if it were
//! stuck: its watchdogs know of no time that was taken from it.

use std::{
    collections::VecDeque,
    fs,
    time::{Duration, Instant},
};

/// Between two looks; a console that speaks may make it longer, never shorter.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Over which waiting is averaged: kernel/watchdog.c and kernel/rcu/tree_stall.h complain after about 20 s.
const SPAN: Duration = Duration::from_secs(20);
/// Share of such a span after which a stall is taken to be the host's.
const LIMIT: f64 = 0.25;

/// What was read at one time, summed up since the start.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    /// Of the thread that waited longest, each time.
    waited: Duration,
}

/// Watches a process.
#[derive(Debug)]
pub struct Starvation {
    process: u32,
    started: Instant,
    /// Wait of each thread at the last look.
    threads: Vec<(String, Duration)>,
    stolen: Duration,
    recent: VecDeque<Sample>,
    worst: f64,
}

impl Starvation {
    /// Of a process that has just been started.
    pub fn of(process: u32) -> Self {
        Self {
            process,
            started: Instant::now(),
            threads: threads(process),
            stolen: stolen(),
            recent: VecDeque::from([Sample {
                at: Duration::ZERO,
                waited: Duration::ZERO,
            }]),
            worst: 0.0,
        }
    }

    /// Looks, unless it did within the last [`PERIOD`].
    pub fn look(&mut self) {
        let at = self.started.elapsed();
        let Some(last) = self.recent.back().copied() else {
            return;
        };
        let gone = at.saturating_sub(last.at);
        if gone < PERIOD {
            return;
        }
        let threads = threads(self.process);
        let waited = threads
            .iter()
            .filter_map(|(thread, waited)| {
                let before = self.threads.iter().find(|(name, _)| name == thread)?.1;
                Some(waited.saturating_sub(before))
            })
            .max()
            .unwrap_or_default();
        self.threads = threads;
        let stolen = stolen();
        // A hypervisor that took this machine's processors away, and a look that comes late,
        // are waiting, too.
        let waited = waited + stolen.saturating_sub(self.stolen) + gone.saturating_sub(2 * PERIOD);
        self.stolen = stolen;
        self.note(Sample {
            at,
            waited: last.waited + waited.min(gone),
        });
    }

    fn note(&mut self, sample: Sample) {
        self.recent.push_back(sample);
        while let Some(first) = self.recent.front().copied()
            && sample.at.saturating_sub(first.at) >= SPAN
        {
            let waited = sample.waited.saturating_sub(first.waited).as_secs_f64();
            let share = waited / sample.at.saturating_sub(first.at).as_secs_f64();
            self.worst = self.worst.max(share);
            self.recent.pop_front();
        }
    }

    /// In percent of a span, if the guest's stalls may be the host's.
    pub fn suspect(&self) -> Option<u32> {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        (self.worst >= LIMIT).then_some((self.worst * 100.0) as u32)
    }
}

/// How long each thread was runnable and did not run, from `schedstat`
/// (Documentation/scheduler/sched-stats.rst); nothing on a kernel without it.
fn threads(process: u32) -> Vec<(String, Duration)> {
    let Ok(tasks) = fs::read_dir(format!("/proc/{process}/task")) else {
        return Vec::new();
    };
    tasks
        .filter_map(|task| {
            let task = task.ok()?;
            let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
            let waited = text.split_whitespace().nth(1)?.parse().ok()?;
            let name = task.file_name().to_string_lossy().into_owned();
            Some((name, Duration::from_nanos(waited)))
        })
        .collect()
}

/// What a hypervisor took from each of this machine's processors, on average (proc(5), `steal`).
fn stolen() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks = text
        .lines()
        .next()
        .and_then(|all| all.split_whitespace().nth(8))
        .and_then(|steal| steal.parse::<u64>().ok())
        .unwrap_or(0);
    let processors = text
        .lines()
        .filter(|line| line.starts_with("cpu"))
        .count()
        .saturating_sub(1)
        .max(1);
    // In units of USER_HZ, which is 100 on every architecture that runs QEMU's guests.
    Duration::from_millis(ticks * 10 / processors as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(shares: &[(u64, f64)]) -> Option<u32> {
        let mut starvation = Starvation::of(std::process::id());
        let mut last = Sample {
            at: Duration::ZERO,
            waited: Duration::ZERO,
        };
        for (seconds, share) in shares {
            for _ in 0..*seconds {
                last.at += PERIOD;
                last.waited += PERIOD.mul_f64(*share);
                starvation.note(last);
            }
        }
        starvation.suspect()
    }

    #[test]
    fn a_guest_is_starved_if_it_waited_for_a_quarter_of_some_span() {
        assert_eq!(after(&[(300, 0.2)]), None);
        assert_eq!(after(&[(100, 0.0), (20, 0.5), (100, 0.0)]), Some(50));
        // A hiccup stalls nobody.
        assert_eq!(after(&[(100, 0.0), (4, 1.0), (100, 0.0)]), None);
        // Nor is there anything to say of a guest that lived for less.
        assert_eq!(after(&[(10, 1.0)]), None);
    }

    #[test]
    fn two_threads_on_one_processor_wait_for_each_other() {
        use nix::sched::{CpuSet, sched_setaffinity};
        use nix::unistd::{Pid, gettid};
        let process = std::process::id();
        let spinning = || {
            std::thread::spawn(move || {
                let mut first = CpuSet::new();
                first.set(0).unwrap();
                sched_setaffinity(Pid::from_raw(0), &first).unwrap();
                let me = gettid().to_string();
                let before = threads(process);
                let started = Instant::now();
                while started.elapsed() < Duration::from_millis(400) {
                    std::hint::spin_loop();
                }
                let of = |samples: Vec<(String, Duration)>| {
                    samples.iter().find(|(name, _)| *name == me).unwrap().1
                };
                of(threads(process)) - of(before)
            })
        };
        let both = [spinning(), spinning()];
        let waited: Duration = both.into_iter().map(|one| one.join().unwrap()).sum();
        assert!(waited >= Duration::from_millis(200), "{waited:?}");
    }
}
