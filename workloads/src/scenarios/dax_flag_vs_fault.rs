//! The DAX flag (chattr +x) of a file whose pages are in use, which must change nothing until the file
//! was closed by everyone; and of a file that is closed and opened again after each change, so that on
//! a mount with `dax=inode` what was stored with DAX is read through the page cache, and the other
//! way round.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use super::block::{Cell, FileId, Generation, Stamp};
use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::kernel::{is_dax, set_dax_flag};
use super::ledger::{Family, Wrong};
use super::mapping::{Kind, Lost, Mapping};
use super::pages::{PAGE, Page, PageRange};
use super::run::Run;
use super::setup::{Cast, Setup};
use super::target::{Target, stamp};
use super::{Lacks, Needs, Scenario};

pub const SCENARIO: Scenario = Scenario {
    name: "dax-flag-vs-fault",
    summary: "chattr +x and -x: of a file in use, and between store and load (best with dax=inode)",
    needs: Needs::Any,
    lacks: Lacks::Nothing,
    cast,
};

/// Pages of the file that is opened again and again.
const PAGES: u32 = 16;

fn cast(setup: &mut Setup) -> Result<Cast, Error> {
    let target = setup.file(Family::Fixed, 0, Habit::default())?;
    let beside = target.clone();
    let (file, path) = setup.scene().sandbox.file(u8::MAX - 2)?;
    let size = u64::from(PAGES) * PAGE;
    let failed = |error| Error::path(&path, error);
    file.set_len(size).map_err(failed)?;
    drop(file);
    let mut switched = Switched {
        path,
        words: [0; PAGES as usize],
        generation: 0,
        dax: None,
    };
    let toggle = move |run: &mut Run| {
        let range = run.aim(&target);
        let on = run.rng().one_in(2);
        run.apply(Operation::DaxFlag, &target, range, || {
            set_dax_flag(&target.file, on)
        })?;
        run.punch(&target, range)
    };
    let switch = move |run: &mut Run| switched.round(run, &beside);
    Ok(vec![Box::new(toggle), Box::new(switch)])
}

/// A file that nobody has open between two rounds.
struct Switched {
    path: PathBuf,
    /// What each page's cells hold.
    words: [u64; PAGES as usize],
    generation: u32,
    dax: Option<bool>,
}

impl Switched {
    fn round(&mut self, run: &mut Run, beside: &Target) -> Result<(), Error> {
        let whole = PageRange::new(Page(0), PAGES);
        let failed = |error| Error::path(&self.path, error);
        let mut open = std::fs::File::options();
        let file = open.read(true).write(true).open(&self.path);
        let file = Arc::new(file.map_err(failed)?);
        let dax = is_dax(&file).map_err(failed)?;
        if self.dax.replace(dax).is_some_and(|before| before != dax) {
            run.apply(Operation::DaxSwitch, beside, whole, || Ok(()))?;
        }
        let mapping = Mapping::new(file.clone(), PAGES, Kind::Shared)
            .map_err(|source| Error::call("mmap", source))?;
        for page in whole.pages() {
            let mut bytes = [0; 8];
            let at = page.offset() + Cell::Tail.offset();
            file.read_exact_at(&mut bytes, at).map_err(failed)?;
            let loaded = lost(beside, mapping.load(page, Cell::Tail))?;
            let expected = self.words[page.0 as usize];
            for (word, how) in [(u64::from_ne_bytes(bytes), "read(2)"), (loaded, "a load")] {
                if word != expected {
                    let wrong = beside.ledger.compare(page, expected, word);
                    let why = format!("{how} must show what was stored before the file was opened");
                    let wrong = wrong.unwrap_or(Wrong::Stale);
                    run.report(beside, page, Cell::Tail.offset(), wrong, word, &why);
                }
            }
        }
        let part = whole.choose(run.rng(), 1, PAGES);
        for page in part.pages() {
            let key = run.scene().key;
            self.generation = (self.generation + 1) % key.last_generation().0;
            let word = key.seal(Stamp {
                file: FileId::MAX,
                page,
                generation: Generation(self.generation),
            });
            if run.rng().one_in(2) {
                lost(beside, mapping.store(page, Cell::Tail, word))?;
            } else {
                let mut block = [0; PAGE as usize];
                stamp(&mut block, word);
                file.write_all_at(&block, page.offset()).map_err(failed)?;
            }
            self.words[page.0 as usize] = word;
        }
        if run.rng().one_in(4) {
            run.apply(Operation::MapSync, beside, part, || mapping.sync(part))?;
        }
        let on = !dax;
        run.apply(Operation::DaxFlag, beside, whole, || {
            set_dax_flag(&file, on)
        })
        .map(drop)
    }
}

fn lost<T>(target: &Target, access: Result<T, Lost>) -> Result<T, Error> {
    access.or_else(|lost| match lost {
        Lost::Broken(source) => Err(Error::call("mmap", source)),
        Lost::Bus => {
            target.blame()?;
            let source = std::io::Error::other("SIGBUS within the file");
            Err(Error::call("page fault", source))
        }
    })
}
