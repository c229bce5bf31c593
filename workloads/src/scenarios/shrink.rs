//! Makes a failing run smaller while it still fails: fewer actors, fewer rounds, one fault thread.

use std::time::{Duration, Instant};

use super::oplog::{Log, Script};
use super::{Error, Limit, Options, Progress, Summary, find, run};

/// How often a smaller run is tried before it counts as one that does not fail.
const TRIES: u32 = 3;
/// A try lasts so many times as long as the first failure took.
const PATIENCE: u32 = 4;
/// At least.
const LEAST: Duration = Duration::from_secs(1);
/// At most.
const MOST: Duration = Duration::from_secs(20);

/// What came of it.
#[derive(Debug)]
pub struct Shrunk {
    /// The smallest run that failed; None if the log's own did not fail again.
    pub log: Option<Log>,
    /// Rounds of the log.
    pub before: usize,
    /// Runs made.
    pub runs: u32,
}

/// Shrinks a log, for at most `budget`; `options` says where. Its other fields come from the log.
/// `tell` is called after each run with its number and the rounds still left.
pub fn shrink(
    log: &Log,
    options: &Options,
    budget: Duration,
    tell: &mut dyn FnMut(u32, usize),
) -> Result<Shrunk, Error> {
    let mut search = Search {
        log,
        base: again(log, options),
        end: Instant::now() + budget,
        runs: 0,
        best: None,
        tell,
    };
    let before = log.recipe.rounds.len();
    let mut script = log.recipe.rounds.clone();
    if search.fails(&script)? {
        for actor in 0..script.0.len() {
            let mut less = script.clone();
            less.0[actor].clear();
            if !less.is_empty() && search.fails(&less)? {
                script = less;
            }
        }
        for actor in 0..script.0.len() {
            let rounds = script.0[actor].clone();
            let least = reduce(rounds, &mut |rounds| {
                let mut less = script.clone();
                less.0[actor] = rounds.to_vec();
                Ok(!less.is_empty() && search.fails(&less)?)
            })?;
            script.0[actor] = least;
        }
        let alone: [fn(&mut Options); 2] = [
            |options| options.processes = 1,
            |options| options.threads = 1,
        ];
        for less in alone {
            let former = search.base.clone();
            less(&mut search.base);
            if search.base.faulters() < former.faulters() && !search.fails(&script)? {
                search.base = former;
            }
        }
    }
    Ok(Shrunk {
        before,
        runs: search.runs,
        log: search.best,
    })
}

/// The options that make a log's run again, over and over until data is wrong.
pub fn again(log: &Log, options: &Options) -> Options {
    let recipe = &log.recipe;
    let patience = Duration::from_millis(recipe.milliseconds) * PATIENCE;
    Options {
        seed: recipe.seed,
        threads: recipe.threads,
        processes: recipe.processes,
        limit: Limit::Time(patience.clamp(LEAST, MOST)),
        file_size: recipe.file_size,
        pin_cpus: recipe.pin_cpus,
        script: Some(recipe.rounds.clone().into()),
        stop_at_first: true,
        ..options.clone()
    }
}

struct Search<'a> {
    log: &'a Log,
    base: Options,
    end: Instant,
    runs: u32,
    best: Option<Log>,
    tell: &'a mut dyn FnMut(u32, usize),
}

impl Search<'_> {
    /// Whether one of a few runs of the script has wrong data. False when the time is up or the run
    /// was interrupted.
    fn fails(&mut self, script: &Script) -> Result<bool, Error> {
        let scenario = find(&self.log.recipe.scenario)?;
        let options = Options {
            script: Some(script.clone().into()),
            ..self.base.clone()
        };
        for _ in 0..TRIES {
            if Instant::now() >= self.end {
                return Ok(false);
            }
            let mut quiet = |_: &Progress| ();
            let summary: Summary = run(scenario, &options, &mut quiet)?;
            self.runs += 1;
            (self.tell)(self.runs, script.len());
            if summary.interrupted.is_some() {
                self.end = Instant::now();
            }
            if let Some(mut log) = summary.log {
                // The rounds asked for, not how often they were made.
                log.recipe.rounds = script.clone();
                self.best = Some(log);
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Delta debugging (Zeller and Hildebrandt 2002): the least sublist for which `fails` holds, as far as
/// leaving out pieces finds it. `fails` is not asked about the whole list.
fn reduce<T: Clone>(
    mut list: Vec<T>,
    fails: &mut dyn FnMut(&[T]) -> Result<bool, Error>,
) -> Result<Vec<T>, Error> {
    let mut pieces = 2;
    while list.len() > 1 {
        let size = list.len().div_ceil(pieces);
        let mut found = None;
        for start in (0..list.len()).step_by(size) {
            let end = (start + size).min(list.len());
            let piece = list[start..end].to_vec();
            let rest = [&list[..start], &list[end..]].concat();
            if fails(&piece)? {
                found = Some((piece, 2));
                break;
            }
            if pieces > 2 && !rest.is_empty() && fails(&rest)? {
                found = Some((rest, pieces - 1));
                break;
            }
        }
        match found {
            Some((less, next)) => (list, pieces) = (less, next.max(2)),
            None if size == 1 => break,
            None => pieces = (pieces * 2).min(list.len()),
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduction_finds_what_is_needed() {
        let all: Vec<u32> = (0..100).collect();
        for needed in [vec![42], vec![0, 99], vec![3, 4, 50]] {
            let mut asked = 0;
            let least = reduce(all.clone(), &mut |list| {
                asked += 1;
                Ok(needed.iter().all(|n| list.contains(n)))
            })
            .unwrap();
            assert_eq!(least, needed);
            assert!(asked < 200, "{asked} questions");
        }
        assert_eq!(reduce(all.clone(), &mut |_| Ok(false)).unwrap(), all);
    }
}
