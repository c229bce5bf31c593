//! An actor's side of a run: what a scenario is written in.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Limit;
use super::aligned::Aligned;
use super::block::Cell;
use super::error::Error;
use super::extents::{self, Operation};
use super::ledger::{Change, Exclusive, Sealed, Wrong};
use super::mapping::{Lost, Mapping};
use super::oplog::Done;
use super::pages::{PAGE, Page, PageRange};
use super::rng::{Rng, mix};
use super::scene::Scene;
use super::setup::Cast;
use super::stage::{Sight, Stage, Stop, Wronged};
use super::target::{Target, stamp};

/// The most pages that [`Run::rewrite`] writes in one call.
const BUFFER: u32 = 64;
/// Pages looked at after most checked rounds; all of them after the others.
const SAMPLE: u32 = 6;
/// Words in a page.
const WORDS: u64 = PAGE / 8;

/// What a checked round must leave in the pages it held.
#[derive(Clone, Copy)]
pub enum Expect<'a> {
    /// Zero in each.
    Zero,
    /// Word `n` throughout page `n` of the range.
    Words(&'a [u64]),
}

/// A word, and how it was read.
struct Read<'a> {
    word: u64,
    sight: Sight,
    why: &'a str,
}

/// A run in progress, in the hands of one actor.
pub struct Run {
    scene: Arc<Scene>,
    actor: usize,
    round: u64,
    turn: u64,
    completed: u64,
    quota: u64,
    rng: Rng,
    /// For what is looked at; apart, so that an operation's outcome does not shift later choices.
    checks: Rng,
    buffer: Vec<u8>,
    words: Vec<u64>,
}

impl Run {
    /// The `actor`-th of so many.
    pub(super) fn new(scene: Arc<Scene>, actor: usize, actors: usize) -> Self {
        let checks = Rng::stream(scene.options.seed, u64::MAX - 2 - actor as u64);
        let quota = match scene.options.limit {
            Limit::Operations(most) => most.div_ceil(actors.max(1) as u64),
            Limit::Time(_) => u64::MAX,
        };
        Self {
            scene,
            actor,
            round: 0,
            turn: 0,
            completed: 0,
            quota,
            rng: Rng::stream(0, 0),
            checks,
            buffer: vec![0; BUFFER as usize * PAGE as usize],
            words: Vec::with_capacity(BUFFER as usize),
        }
    }

    /// Makes round after round until the run ends. Each round has random numbers of its own, which
    /// follow from seed, actor and the round's number.
    pub(super) fn perform(mut self, mut cast: Cast) -> Result<(), Error> {
        let stream = mix(self.scene.options.seed ^ mix(self.actor as u64 + 1));
        let script = self.scene.options.script.clone();
        let script = script.as_ref().map(|script| script.rounds(self.actor));
        for n in 0.. {
            self.round = match script {
                None => n as u64 + 1,
                Some([]) => break,
                Some(rounds) => rounds[n % rounds.len()],
            };
            self.turn = n as u64 + 1;
            if !self.again(n) {
                break;
            }
            self.stage().round(self.actor, self.round);
            self.rng = Rng::stream(stream, self.round);
            let act = self.rng.below(cast.len() as u32) as usize;
            match cast[act](&mut self) {
                Err(Error::Unsupported { operation, .. })
                    if self.scene.mixed.load(Ordering::Relaxed) =>
                {
                    self.stage().leave_out(operation);
                    // Its place stays, so that the others' rounds are the same.
                    cast[act] = Box::new(|_| Ok(()));
                }
                done => done?,
            }
        }
        Ok(())
    }

    fn again(&self, n: usize) -> bool {
        if n.is_multiple_of(64) {
            self.stage().counters[self.counters()].sample_faults();
        }
        self.completed < self.quota && !self.stage().stopped()
    }

    fn counters(&self) -> usize {
        self.scene.options.faulters() + self.actor
    }

    /// What all threads share.
    pub fn stage(&self) -> &Stage {
        &self.scene.stage
    }

    /// The run's surroundings.
    pub fn scene(&self) -> &Arc<Scene> {
        &self.scene
    }

    /// Set when the run is over.
    pub fn stop(&self) -> Arc<Stop> {
        self.scene.stage.stop.clone()
    }

    /// Has all mappings show the range, so that a change finds it in use: pages in the cache,
    /// translations in place.
    pub fn warm(&self, target: &Target, range: PageRange) {
        for mapping in &target.mappings {
            // Beyond EOF, or on an older kernel, the pages stay cold.
            let _ = mapping.populate(range);
        }
    }

    /// This round's random numbers.
    pub fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// The actor's own mapping of a file, which no other thread accesses.
    pub fn mapping<'a>(&self, target: &'a Target) -> &'a Mapping {
        &target.mappings[self.scene.options.threads + self.actor]
    }

    /// The next range to change, known to the fault threads from now on.
    pub fn aim(&mut self, target: &Target) -> PageRange {
        self.aim_within(target, target.whole())
    }

    /// The same, inside `within`.
    pub fn aim_within(&mut self, target: &Target, within: PageRange) -> PageRange {
        target.hot.aim(within, &mut self.rng)
    }

    /// Does `call` to a range of a file, counts it and sorts its errors: false if the kernel was busy,
    /// `Err` if the run cannot go on.
    pub fn apply(
        &mut self,
        operation: Operation,
        target: &Target,
        range: PageRange,
        mut call: impl FnMut() -> io::Result<()>,
    ) -> Result<bool, Error> {
        let stage = self.scene.stage.clone();
        stage.doing(operation);
        let mut done = Done::begin(
            self.actor,
            (self.round, self.turn),
            operation,
            target.id,
            range,
        );
        let outcome = call();
        done.end(&outcome);
        stage.note(done, target);
        let Err(source) = outcome else {
            self.completed += 1;
            stage.done[operation as usize].fetch_add(1, Ordering::Relaxed);
            stage.bytes.fetch_add(range.bytes(), Ordering::Relaxed);
            return Ok(true);
        };
        match source.raw_os_error().unwrap_or(0) {
            libc::EINTR | libc::EAGAIN | libc::EBUSY | libc::ETXTBSY => {
                stage.refused[operation as usize].fetch_add(1, Ordering::Relaxed);
                Ok(false)
            }
            libc::ENOSPC | libc::EDQUOT => Err(Error::NoSpace {
                operation: operation.name(),
            }),
            libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS => {
                Err(self.scene.unsupported(operation.name(), operation.hint()))
            }
            libc::EPERM | libc::EACCES => Err(self
                .scene
                .unsupported(operation.name(), Some("not permitted: needs root"))),
            libc::EROFS => Err(Error::ReadOnly(self.scene.sandbox.path().into())),
            _ => Err(Error::Operation {
                operation: operation.name(),
                source,
            }),
        }
    }

    /// The same, repeated while the kernel is busy and the run goes on: for what must not be left
    /// half done.
    pub fn insist(
        &mut self,
        operation: Operation,
        target: &Target,
        range: PageRange,
        mut call: impl FnMut() -> io::Result<()>,
    ) -> Result<(), Error> {
        while !self.apply(operation, target, range, &mut call)? {}
        Ok(())
    }

    /// [`Run::discard`] by punching a hole.
    pub fn punch(&mut self, target: &Target, range: PageRange) -> Result<(), Error> {
        self.discard(target, range, Operation::PunchHole, || {
            extents::punch(&target.file, range)
        })
    }

    /// [`Run::discard`] by zeroing.
    pub fn zero(&mut self, target: &Target, range: PageRange) -> Result<(), Error> {
        let keep_size = self.rng.one_in(2);
        self.discard(target, range, Operation::ZeroRange, || {
            if keep_size {
                extents::zero(&target.file, range)
            } else {
                let bytes = (range.offset(), range.bytes());
                extents::extend(&target.file, Operation::ZeroRange, bytes)
            }
        })
    }

    /// A round that discards the range's data. Half of the rounds hold off stores and then look
    /// whether all is zero.
    pub fn discard(
        &mut self,
        target: &Target,
        range: PageRange,
        operation: Operation,
        call: impl FnMut() -> io::Result<()>,
    ) -> Result<(), Error> {
        if self.rng.one_in(2) {
            let Some(_change) = target.ledger.change(range, &self.scene.stage.stop) else {
                return Ok(());
            };
            return self.apply(operation, target, range, call).map(drop);
        }
        if matches!(operation, Operation::PunchHole | Operation::ZeroRange) && self.rng.one_in(2) {
            return self.discard_within(target, range, operation);
        }
        let Some(held) = self.exclude(target, range) else {
            return Ok(());
        };
        let change = held.change();
        let done = self.apply(operation, target, range, call)?;
        if done {
            change.discarded(range);
        }
        drop(change);
        if done {
            self.expect(target, range, Expect::Zero)?;
        }
        Ok(())
    }

    /// Discards the data of a range that begins and ends within pages, of which the rest stays.
    fn discard_within(
        &mut self,
        target: &Target,
        range: PageRange,
        operation: Operation,
    ) -> Result<(), Error> {
        let Some(inner) = range.inner() else {
            return Ok(());
        };
        let Some(held) = self.exclude(target, range) else {
            return Ok(());
        };
        let first = (range.first(), Cell::Head, Cell::Tail);
        let last = (inner.end(), Cell::Tail, Cell::Head);
        // On the medium then, and no longer in the page cache alone; else writable in a mapping.
        let synced = self.rng.one_in(2);
        if synced {
            self.apply(Operation::DataSync, target, range, || {
                target.file.sync_data()
            })?;
        }
        let cut = |rng: &mut Rng| 8 * u64::from(1 + rng.below(WORDS as u32 - 2));
        let start = first.0.offset() + cut(&mut self.rng);
        let end = last.0.offset() + cut(&mut self.rng);
        let kept = [first, last].map(|(page, kept, _)| self.peek(target, page, kept));
        if !synced {
            for ((page, cell, _), word) in [first, last].into_iter().zip(kept) {
                // The same again; nothing is lost if there is no space for it.
                let _ = word.map(|word| self.mapping(target).store(page, cell, word));
            }
        }
        let change = held.change_bytes();
        let done = self.apply(operation, target, range, || {
            extents::discard_bytes(&target.file, operation, (start, end - start))
        })?;
        if !done {
            return Ok(());
        }
        change.discarded(inner);
        drop(change);
        for ((page, kept, gone), word) in [first, last].into_iter().zip(kept) {
            self.look(target, page, gone, 0)?;
            self.look_past_cache(target, page, gone, 0)?;
            if let Some(word) = word {
                self.look(target, page, kept, word)?;
            }
        }
        self.expect(target, inner, Expect::Zero)
    }

    /// Holds off stores and other changes. None when the run ends meanwhile.
    pub fn exclude<'a>(&self, target: &'a Target, range: PageRange) -> Option<Exclusive<'a>> {
        target.ledger.exclude(range, &self.scene.stage.stop)
    }

    /// The same for ranges of two files, whichever has the lower number first.
    pub fn exclude_both<'a>(
        &self,
        one: (&'a Target, PageRange),
        two: (&'a Target, PageRange),
    ) -> Option<(Exclusive<'a>, Exclusive<'a>)> {
        if one.0.id.0 < two.0.id.0 {
            let first = self.exclude(one.0, one.1)?;
            Some((first, self.exclude(two.0, two.1)?))
        } else {
            let second = self.exclude(two.0, two.1)?;
            Some((self.exclude(one.0, one.1)?, second))
        }
    }

    /// Changes of ranges of two files, the file with the lower number first.
    pub fn change_both<'a>(
        &self,
        one: (&'a Target, PageRange),
        two: (&'a Target, PageRange),
    ) -> Option<(Change<'a>, Change<'a>)> {
        let stop = &self.scene.stage.stop;
        let (one, two) = if one.0.id.0 < two.0.id.0 {
            (one, two)
        } else {
            (two, one)
        };
        let first = one.0.ledger.change(one.1, stop)?;
        Some((first, two.0.ledger.change(two.1, stop)?))
    }

    /// Holds off stores, while other actors go on changing. None when the run ends meanwhile.
    pub fn seal<'a>(&self, target: &'a Target, range: PageRange) -> Option<Sealed<'a>> {
        target.ledger.seal(range, &self.scene.stage.stop)
    }

    /// Writes new stamps over the pages held with write(2), and looks whether all mappings show
    /// them.
    pub fn rewrite(&mut self, target: &Target, held: &Exclusive<'_>) -> Result<bool, Error> {
        self.overwrite(target, held, Operation::Write, |data, offset| {
            target.file.write_all_at(data, offset)
        })
    }

    /// The same by another way of writing. At most [`BUFFER`] pages, the first of those held.
    pub fn overwrite(
        &mut self,
        target: &Target,
        held: &Exclusive<'_>,
        operation: Operation,
        write: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> Result<bool, Error> {
        let range = PageRange::new(held.range().first(), held.range().count().min(BUFFER));
        let mut words = std::mem::take(&mut self.words);
        words.clear();
        words.extend(range.pages().map(|page| held.fresh(page)));
        let outcome = self.put(target, held, &words, operation, write);
        self.words = words;
        outcome
    }

    /// Writes one word throughout each of the first pages held, and looks whether all mappings show
    /// them.
    pub fn put(
        &mut self,
        target: &Target,
        held: &Exclusive<'_>,
        words: &[u64],
        operation: Operation,
        write: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> Result<bool, Error> {
        let range = PageRange::new(held.range().first(), words.len() as u32);
        let change = held.change_bytes();
        let done = self.write_words(target, range, words, operation, write)?;
        if done {
            for (page, &word) in range.pages().zip(words) {
                change.filled(page, word);
            }
        }
        drop(change);
        if done {
            self.expect(target, range, Expect::Words(words))?;
        }
        Ok(done)
    }

    /// Writes one word throughout each page of the range, in a change that the caller has marked.
    pub fn write_words(
        &mut self,
        target: &Target,
        range: PageRange,
        words: &[u64],
        operation: Operation,
        mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> Result<bool, Error> {
        let mut buffer = std::mem::take(&mut self.buffer);
        for (block, &word) in buffer.chunks_mut(PAGE as usize).zip(words) {
            stamp(block, word);
        }
        let data = &buffer[..range.bytes() as usize];
        let done = self.apply(operation, target, range, || write(data, range.offset()));
        self.buffer = buffer;
        done
    }

    /// The words last written by [`Run::overwrite`].
    pub fn written(&self) -> Vec<u64> {
        self.words.clone()
    }

    /// Compares pages that nothing stores to with what they must hold: through each mapping, and
    /// one of them through read(2).
    pub fn expect(
        &mut self,
        target: &Target,
        range: PageRange,
        expect: Expect<'_>,
    ) -> Result<(), Error> {
        let count = if self.checks.one_in(8) {
            range.count()
        } else {
            SAMPLE.min(range.count())
        };
        let start = self.checks.below(range.count());
        for n in 0..count {
            let page = range.nth(start + n);
            let word = match expect {
                Expect::Zero => 0,
                Expect::Words(words) => words[(page.0 - range.first().0) as usize],
            };
            let cell = Cell::BOTH[self.checks.below(2) as usize];
            self.look(target, page, cell, word)?;
            if self.checks.one_in(8) {
                self.look_through(target, page, word)?;
            }
        }
        Ok(())
    }

    /// Compares one cell that nothing stores to with what it must hold.
    pub fn look(
        &mut self,
        target: &Target,
        page: Page,
        cell: Cell,
        expected: u64,
    ) -> Result<(), Error> {
        self.look_mapped(target, page, cell, expected)?;
        if self.checks.one_in(4) {
            let mut word = [0; 8];
            self.read(&target.file, page.offset() + cell.offset(), &mut word)?;
            let read = Read {
                word: u64::from_ne_bytes(word),
                sight: Sight::Other,
                why: "read(2) must show what the operation left",
            };
            self.compare(target, page, expected, cell.offset(), read);
        }
        Ok(())
    }

    /// The same through mappings only, which show the rest of EOF's page too.
    pub fn look_mapped(
        &mut self,
        target: &Target,
        page: Page,
        cell: Cell,
        expected: u64,
    ) -> Result<(), Error> {
        for mapping in &target.mappings {
            if let Some(word) = self.load(target, mapping, page, cell.offset())? {
                let read = Read {
                    word,
                    sight: Sight::Mapping,
                    why: "a mapping must show what the operation left",
                };
                self.compare(target, page, expected, cell.offset(), read);
            }
        }
        Ok(())
    }

    /// Compares a cell that nothing stores to as it is on the medium: what the page cache was cleared of may be
    /// there still.
    fn look_past_cache(
        &mut self,
        target: &Target,
        page: Page,
        cell: Cell,
        expected: u64,
    ) -> Result<(), Error> {
        let direct = File::options()
            .read(true)
            .custom_flags(libc::O_DIRECT | libc::O_NOFOLLOW)
            .open(&target.path);
        let direct = match direct {
            Ok(direct) => direct,
            // It has been unlinked, or its filesystem knows no direct I/O.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
                return Ok(());
            }
            Err(error) => return Err(Error::path(&target.path, error)),
        };
        let mut memory = Aligned::new(PAGE as usize);
        match direct.read_exact_at(memory.bytes(PAGE as usize), page.offset()) {
            Ok(()) => {}
            // A fault has made the page writable since it was written back, though nobody stores to it
            // (fs/iomap/direct-io.c:iomap_dio_iter at IOMAP_DELALLOC).
            Err(error) if error.raw_os_error() == Some(libc::EIO) => return Ok(()),
            Err(source) => {
                return Err(Error::Operation {
                    operation: "direct-read",
                    source,
                });
            }
        }
        let at = cell.offset() as usize;
        let word = memory.bytes(PAGE as usize)[at..at + 8].try_into();
        let read = Read {
            word: u64::from_ne_bytes(word.unwrap_or_default()),
            sight: Sight::Other,
            why: "a direct read must show what the operation left",
        };
        self.compare(target, page, expected, cell.offset(), read);
        Ok(())
    }

    /// Compares every word of a page that nothing stores to, through the actor's own mapping or
    /// through read(2).
    pub fn look_through(
        &mut self,
        target: &Target,
        page: Page,
        expected: u64,
    ) -> Result<(), Error> {
        let mut block = [0; WORDS as usize];
        let (sight, why) = if self.checks.one_in(2) {
            let mapping = self.mapping(target);
            for (n, word) in block.iter_mut().enumerate() {
                let Some(loaded) = self.load(target, mapping, page, n as u64 * 8)? else {
                    return Ok(());
                };
                *word = loaded;
            }
            (Sight::Mapping, "a mapping must show one word throughout")
        } else {
            let mut bytes = [0; PAGE as usize];
            self.read(&target.file, page.offset(), &mut bytes)?;
            for (word, bytes) in block.iter_mut().zip(bytes.chunks_exact(8)) {
                *word = u64::from_ne_bytes(bytes.try_into().unwrap_or_default());
            }
            (Sight::Other, "read(2) must show one word throughout")
        };
        let wrong = block.iter().filter(|&&word| word != expected).count();
        let Some(first) = block.iter().position(|&word| word != expected) else {
            return Ok(());
        };
        let (offset, word) = (first as u64 * 8, block[first]);
        if wrong == block.len() {
            self.compare(target, page, expected, offset, Read { word, sight, why });
        } else {
            let part = target.ledger.compare(page, expected, word);
            let part = part.map_or("torn", Wrong::name);
            let why = format!("{why}, and {wrong} of {WORDS} words are not that: {part}");
            let what = Wronged {
                offset,
                wrong: Wrong::Torn,
                word,
                sight,
                why: &why,
                by: None,
            };
            self.stage().report(target, page, &what);
        }
        Ok(())
    }

    fn read(&self, file: &File, offset: u64, bytes: &mut [u8]) -> Result<(), Error> {
        file.read_exact_at(bytes, offset)
            .map_err(|source| Error::Operation {
                operation: "read",
                source,
            })
    }

    /// Loads a word of a page that lies within the file; None on a SIGBUS, which is reported.
    fn load(
        &self,
        target: &Target,
        mapping: &Mapping,
        page: Page,
        offset: u64,
    ) -> Result<Option<u64>, Error> {
        match mapping.load_at(page, offset) {
            Ok(word) => Ok(Some(word)),
            Err(Lost::Broken(source)) => Err(Error::Operation {
                operation: "mmap",
                source,
            }),
            Err(Lost::Bus) => {
                target.blame()?;
                let why = "the page lies within the file";
                self.report(target, page, offset, Wrong::Bus, 0, why);
                Ok(None)
            }
        }
    }

    /// Reports what is wrong with a word that nothing stores to, if anything is.
    fn compare(&self, target: &Target, page: Page, expected: u64, offset: u64, read: Read<'_>) {
        if let Some(wrong) = target.ledger.compare(page, expected, read.word) {
            let what = Wronged {
                offset,
                wrong,
                word: read.word,
                sight: read.sight,
                why: read.why,
                by: None,
            };
            self.stage().report(target, page, &what);
        }
    }

    /// Reports wrong data that was not read through a shared mapping.
    pub fn report(
        &self,
        target: &Target,
        page: Page,
        offset: u64,
        wrong: Wrong,
        word: u64,
        why: &str,
    ) {
        let what = Wronged {
            offset,
            wrong,
            word,
            sight: Sight::Other,
            why,
            by: None,
        };
        self.stage().report(target, page, &what);
    }

    /// What a cell that nothing stores to holds now, as the actor's own mapping shows it; None on
    /// SIGBUS.
    pub fn peek(&self, target: &Target, page: Page, cell: Cell) -> Option<u64> {
        self.mapping(target).load(page, cell).ok()
    }

    /// The error for what this filesystem cannot do.
    pub fn unsupported(&self, operation: Operation, hint: Option<&'static str>) -> Error {
        self.scene.unsupported(operation.name(), hint)
    }
}
