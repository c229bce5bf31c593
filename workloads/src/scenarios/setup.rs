//! Before a run: the files that a scenario needs, and what the filesystem can do.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Needs;
use super::block::FileId;
use super::error::Error;
use super::extents::Operation;
use super::faulter::Habit;
use super::flight::Carrier;
use super::kernel;
use super::ledger::Family;
use super::mapping::Kind;
use super::rng::Rng;
use super::run::Run;
use super::scene::Scene;
use super::target::{Shape, Target};

/// Number of a file that is made and removed to see what new files are like.
const PROBE: u8 = u8::MAX - 3;

/// What one actor does in a round. Actors run at the same time; each makes one round after the
/// other.
pub type Act = Box<dyn FnMut(&mut Run) -> Result<(), Error> + Send>;

/// The acts of a scenario; each is in the hands of an actor of its own, as far as there are actors.
pub type Cast = Vec<Act>;

/// The cast of a scenario with one actor.
pub fn solo(act: impl FnMut(&mut Run) -> Result<(), Error> + Send + 'static) -> Cast {
    vec![Box::new(act)]
}

/// The cast of a scenario in which two actors do the same: an order of locks that only the arguments decide
/// is a deadlock between two.
pub fn duo(act: impl FnMut(&mut Run) -> Result<(), Error> + Send + Clone + 'static) -> Cast {
    vec![Box::new(act.clone()), Box::new(act)]
}

/// How the fault threads after the first map a file, in turn.
const BESIDE: [Kind; 3] = [Kind::Sync, Kind::Populated, Kind::Shared];

/// A scenario being set up.
pub struct Setup {
    scene: Arc<Scene>,
    rng: Rng,
    targets: Vec<Arc<Target>>,
    /// Files that are not shared.
    alone: Vec<FileId>,
    /// One file of a shape serves all who ask for it.
    share: bool,
}

impl Setup {
    pub(super) fn new(scene: Arc<Scene>) -> Self {
        let rng = Rng::stream(scene.options.seed, u64::MAX - 1);
        Self {
            scene,
            rng,
            targets: Vec::new(),
            alone: Vec::new(),
            share: false,
        }
    }

    /// From now on a file of one shape is made once and serves all who ask for it, and acts that turn
    /// out impossible are left out.
    pub fn share(&mut self) {
        self.share = true;
        self.scene.mixed.store(true, Ordering::Relaxed);
    }

    /// A new file of the size asked for, filled, mapped by everyone, touched by the fault threads;
    /// `slack` pages more lie behind.
    pub fn file(&mut self, family: Family, slack: u32, habit: Habit) -> Result<Arc<Target>, Error> {
        let shape = self.shape(family, slack);
        if self.share
            && let Some(target) = self
                .targets
                .iter()
                .find(|target| target.shape() == shape && self.shared(target))
        {
            return Ok(target.clone());
        }
        self.make(shape, Some(habit))
    }

    /// The same, for a scenario that cannot bear anyone else to change the file.
    pub fn file_alone(
        &mut self,
        family: Family,
        slack: u32,
        habit: Habit,
    ) -> Result<Arc<Target>, Error> {
        let made = self.make(self.shape(family, slack), Some(habit))?;
        self.alone.push(made.id);
        Ok(made)
    }

    /// The same, with something done to the file while it is empty.
    pub fn file_of(
        &mut self,
        family: Family,
        habit: Habit,
        prepare: impl Fn(&File),
    ) -> Result<Arc<Target>, Error> {
        let made = self.make_of(self.shape(family, 0), Some(habit), prepare)?;
        self.alone.push(made.id);
        Ok(made)
    }

    /// Two new files that exchange or share extents.
    pub fn pair(&mut self, habit: Habit) -> Result<(Arc<Target>, Arc<Target>), Error> {
        let exchanged = |target: &&Arc<Target>| {
            matches!(target.shape().family, Family::Exchanged(_)) && self.shared(target)
        };
        if self.share {
            let mut pair = self.targets.iter().filter(exchanged);
            if let (Some(one), Some(two)) = (pair.next(), pair.next()) {
                return Ok((one.clone(), two.clone()));
            }
        }
        let two = FileId(self.next().0 + 1);
        let one = self.make(self.shape(Family::Exchanged(two), 0), Some(habit))?;
        let two = self.make(self.shape(Family::Exchanged(one.id), 0), Some(habit))?;
        Ok((one, two))
    }

    /// Two new files that exchange extents, the first with DAX and the second without, which only
    /// `dax=inode` offers. New files take the flag of their directory
    /// (fs/xfs/libxfs/xfs_inode_util.c:xfs_flags2diflags2).
    pub fn mixed_pair(&mut self, habit: Habit) -> Result<(Arc<Target>, Arc<Target>), Error> {
        let ask = |setup: &Self, dax| {
            let directory = setup.scene.sandbox.directory();
            kernel::set_dax_flag(directory, dax)
                .map_err(|error| Error::path(setup.scene.sandbox.path(), error))
        };
        let mut mixed = true;
        for dax in [true, false] {
            ask(self, dax)?;
            let (file, path) = self.scene.sandbox.file(PROBE)?;
            let failed = |error| Error::path(&path, error);
            mixed &= kernel::is_dax(&file).map_err(failed)? == dax;
            std::fs::remove_file(&path).map_err(failed)?;
        }
        if !mixed {
            let hint = "needs files with DAX and without: mount -o dax=inode on persistent memory";
            return Err(self.unsupported(Operation::DaxFlag, Some(hint)));
        }
        let two = FileId(self.next().0 + 1);
        ask(self, true)?;
        let one = self.make(self.shape(Family::Exchanged(two), 0), Some(habit));
        ask(self, false)?;
        let one = one?;
        let two = self.make(self.shape(Family::Exchanged(one.id), 0), Some(habit))?;
        self.alone.extend([one.id, two.id]);
        Ok((one, two))
    }

    /// A file of its own whose pages go by direct I/O or EXT4_IOC_SWAP_BOOT. In the page cache these
    /// unmap only what looks mapped (mm/truncate.c:invalidate_inode_pages2_range,
    /// truncate_cleanup_folio): threads that load, and drop translations, beside it see the page that
    /// went for a while longer, which open(2) warns of. There no fault thread touches it.
    pub fn file_past_cache(&mut self, habit: Habit) -> Result<Arc<Target>, Error> {
        if self.scene.dax {
            self.file_alone(Family::Fixed, 0, habit)
        } else {
            self.bystander(Family::Fixed)
        }
    }

    /// An empty file that no directory has.
    pub fn nameless(&self) -> Result<File, Error> {
        let (file, path) = self.scene.sandbox.file(PROBE)?;
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(file),
            Err(error) => Err(Error::path(path, error)),
        }
    }

    /// A file of its own that no fault thread touches.
    pub fn bystander(&mut self, family: Family) -> Result<Arc<Target>, Error> {
        self.make(self.shape(family, 0), None)
    }

    /// The same, of so many pages at most.
    pub fn small_bystander(&mut self, pages: u32) -> Result<Arc<Target>, Error> {
        let mut shape = self.shape(Family::Fixed, 0);
        shape.pages = shape.pages.min(pages);
        self.make(shape, None)
    }

    fn shared(&self, target: &Target) -> bool {
        target.habit.is_some() && !self.alone.contains(&target.id)
    }

    /// The number that the next file will have.
    pub fn next(&self) -> FileId {
        FileId(self.targets.len() as u8 + 1)
    }

    fn shape(&self, family: Family, slack: u32) -> Shape {
        Shape {
            pages: self.scene.options.pages(),
            slack,
            family,
        }
    }

    fn make(&mut self, shape: Shape, habit: Option<Habit>) -> Result<Arc<Target>, Error> {
        self.make_of(shape, habit, |_| ())
    }

    fn make_of(
        &mut self,
        shape: Shape,
        habit: Option<Habit>,
        prepare: impl Fn(&File),
    ) -> Result<Arc<Target>, Error> {
        let id = self.next();
        let made = self.scene.sandbox.file(id.0)?;
        prepare(&made.0);
        let rng = &mut self.rng;
        let threads = self.scene.options.threads;
        // Plain for the actors and the first fault thread. The others share the rest among them, whatever the
        // seed: a synchronous fault has a path of its own in each filesystem, which no run may leave out.
        let kinds: Vec<Kind> = (0..threads + self.scene.actors)
            .map(|n| match n {
                0 => Kind::Shared,
                n if n < threads => BESIDE[(n + usize::from(id.0) - 2) % BESIDE.len()],
                _ => Kind::Shared,
            })
            .collect();
        let target = Arc::new(Target::new(
            made,
            id,
            shape,
            habit,
            self.scene.key,
            kinds.into_iter(),
            rng,
        )?);
        if kernel::is_dax(&target.file).unwrap_or(false) {
            self.scene.stage.dax.store(true, Ordering::Relaxed);
        }
        self.scene.stage.file(&target);
        self.targets.push(target.clone());
        Ok(target)
    }

    /// The target's file once more, for direct I/O.
    pub fn direct(&self, target: &Target) -> Result<File, Error> {
        self.direct_with(target, 0)
    }

    /// The same, which syncs what it writes.
    pub fn direct_synced(&self, target: &Target) -> Result<File, Error> {
        self.direct_with(target, libc::O_DSYNC)
    }

    fn direct_with(&self, target: &Target, flags: libc::c_int) -> Result<File, Error> {
        OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_DIRECT | libc::O_NOFOLLOW | flags)
            .open(&target.path)
            .map_err(|source| match source.raw_os_error() {
                Some(libc::EINVAL) => self.scene.unsupported("O_DIRECT", None),
                _ => Error::path(&target.path, source),
            })
    }

    /// What `make` makes of a way to do asynchronous I/O, if this kernel has it.
    pub fn carried<T>(
        &self,
        carrier: Carrier,
        make: impl FnOnce(Carrier) -> io::Result<T>,
    ) -> Result<T, Error> {
        let (name, absent) = carrier.name();
        make(carrier).map_err(|source| match Carrier::absent(&source) {
            true => self.scene.unsupported(name, Some(absent)),
            false => Error::call(name, source),
        })
    }

    /// The run's surroundings.
    pub fn scene(&self) -> &Arc<Scene> {
        &self.scene
    }

    /// Refuses an operation on a filesystem that the system itself runs on.
    pub fn refuse_vital(&self, operation: Operation) -> Result<(), Error> {
        let device = |path: &Path| std::fs::metadata(path).map(|data| data.dev());
        let here = self.scene.sandbox.path();
        let this = device(here).map_err(|error| Error::path(here, error))?;
        let vital = ["/", "/tmp", "/var", "/usr", "/home", "."].map(Path::new);
        if vital
            .iter()
            .any(|path| device(path).is_ok_and(|device| device == this))
        {
            let hint = "the system runs on this filesystem: needs a mount of its own";
            return Err(self.unsupported(operation, Some(hint)));
        }
        Ok(())
    }

    /// Whether the filesystem is of the kind that a scenario needs.
    pub fn meets(&self, needs: Needs) -> bool {
        needs.met_here(&self.scene.filesystem, self.scene.dax)
    }

    /// Says that a scenario, or a part of one, cannot be played here.
    pub fn leave_out(&self, what: &'static str) {
        self.scene.stage.leave_out(what);
    }

    /// The error for what this filesystem cannot do.
    pub fn unsupported(&self, operation: Operation, hint: Option<&'static str>) -> Error {
        self.scene.unsupported(operation.name(), hint)
    }

    pub(super) fn into_targets(self) -> Vec<Arc<Target>> {
        self.targets
    }
}
