//! Filesystem modules of a kernel, rebuilt with a patch.
//!
//! Built out of tree from Debian's source and headers packages of the kernel's own
//! version, or in the tree of a kernel of the lab's own, so the result loads on the unchanged image. The unpatched objects are built
//! once for each filesystem; a patch recompiles only the files it touches.

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use sha2::{Digest, Sha256};

use super::cache::Cache;
use super::elf;
use super::host;
use super::job::FilesystemKind;
use super::kernel::{Kernel, Origin};
use super::packages::{Mirror, Package, output, tail};
use super::progress::{Progress, ProgressFn};

/// Where a tree was built; kbuild writes this path into its `.cmd` files.
const BUILD_PATH: &str = "build-path";

/// Builds a filesystem module with a patch (`patch -p1` on the kernel tree) applied, or
/// takes it from the cache. Returns the path of the stripped object.
///
/// # Errors
/// Build tools are missing (the message has the `apt-get` line), the mirrors no longer
/// have the source of this kernel version, the patch does not apply without fuzz, or
/// the compiler fails.
pub fn build(
    cache: &Cache,
    kernel: &Kernel,
    filesystem: FilesystemKind,
    patch: &str,
    progress: &mut ProgressFn,
) -> Result<PathBuf> {
    let name = filesystem.module();
    let key = key(kernel)?;
    let item = cache.item(
        &format!("modules/{key}_{name}_{}", digest(patch)),
        |staging| {
            let headers = headers(cache, kernel, progress)?;
            let baseline = baseline(cache, kernel, filesystem, &headers, progress)?;
            progress(Progress::BuildingModule(format!(
                "{name} for {}, patched",
                kernel.release
            )));
            let tree = staging.dir.join("tree");
            copy_tree(&baseline, &tree)?;
            relocate(&tree)?;
            apply(patch, &tree)?;
            fs::write(staging.dir.join("applied.patch"), patch)?;
            compile(&headers, &tree, filesystem, &staging.dir)
        },
    )?;
    Ok(item.join(format!("{name}.ko")))
}

/// Builds a filesystem module from somebody's own source of it, `fs/xfs` of a tree, or takes it
/// from the cache. Returns the path of the stripped object.
///
/// # Errors
/// As [`build`]; and the source is for another kernel and does not compile with its headers.
pub fn build_source(
    cache: &Cache,
    kernel: &Kernel,
    filesystem: FilesystemKind,
    source: &Path,
    progress: &mut ProgressFn,
) -> Result<PathBuf> {
    let name = filesystem.module();
    let mut hash = Sha256::new();
    hash_tree(source, &mut hash).with_context(|| format!("cannot read {}", source.display()))?;
    let digest = short(&hash.finalize());
    let key = key(kernel)?;
    let item = cache.item(
        &format!("modules/{key}_{name}_source-{digest}"),
        |staging| {
            let headers = headers(cache, kernel, progress)?;
            require_tools(&headers)?;
            progress(Progress::BuildingModule(format!(
                "{name} for {}, from {}",
                kernel.release,
                source.display()
            )));
            let tree = staging.dir.join("tree");
            let directory = source_dir(filesystem);
            if resembles(source, &sources(cache, kernel, progress)?.join(&directory))? {
                // Only what differs is compiled.
                let baseline = baseline(cache, kernel, filesystem, &headers, progress)?;
                copy_tree(&baseline, &tree)?;
                relocate(&tree)?;
            } else {
                fs::create_dir_all(tree.join(&directory))?;
            }
            lay_over(source, &tree.join(directory))?;
            compile(&headers, &tree, filesystem, &staging.dir)
        },
    )?;
    Ok(item.join(format!("{name}.ko")))
}

/// Builds a module of the lab's own from these files, its makefile among them, or takes it from the cache. Returns the path
/// of the stripped object.
///
/// # Errors
/// As [`build`]. Types are not asked for: nothing of it is hooked.
pub(super) fn build_external(
    cache: &Cache,
    kernel: &Kernel,
    name: &str,
    sources: &[(&str, &str)],
    progress: &mut ProgressFn,
) -> Result<PathBuf> {
    let key = key(kernel)?;
    let all: String = sources.iter().map(|(_, text)| *text).collect();
    let item = cache.item(
        &format!("modules/{key}_{name}_{}", digest(&all)),
        |staging| {
            let headers = headers(cache, kernel, progress)?;
            require_tools(&headers)?;
            progress(Progress::BuildingModule(format!(
                "{name} for {}",
                kernel.release
            )));
            let tree = staging.dir.join("tree");
            fs::create_dir_all(&tree)?;
            for (file, text) in sources {
                fs::write(tree.join(file), text)?;
            }
            make(&headers, &tree, name, &[], &staging.dir.join("build.log"))?;
            leave_object(&tree, &tree, name, &staging.dir)
        },
    )?;
    Ok(item.join(format!("{name}.ko")))
}

/// Leaves the module's stripped object and the build's log in `result`, and nothing of the tree.
fn compile(headers: &Path, tree: &Path, filesystem: FilesystemKind, result: &Path) -> Result<()> {
    make_filesystem(headers, tree, filesystem, &result.join("build.log"))?;
    let name = filesystem.module();
    leave_object(tree, &tree.join(source_dir(filesystem)), name, result)?;
    require_types(&result.join(format!("{name}.ko")))
}

/// Leaves what was built in a directory of the tree, stripped, in `result`, and nothing of the tree.
fn leave_object(tree: &Path, directory: &Path, name: &str, result: &Path) -> Result<()> {
    let object = format!("{name}.ko");
    strip(&directory.join(&object), &result.join(&object))?;
    fs::remove_dir_all(tree).context("cannot remove the build tree")
}

/// Names and contents of the sources below a directory, in a fixed order.
fn hash_tree(root: &Path, hash: &mut Sha256) -> Result<()> {
    for name in source_files(root)? {
        hash.update(name.as_os_str().as_encoded_bytes());
        hash.update(fs::read(root.join(&name))?);
    }
    Ok(())
}

/// Names of the sources below a directory, sorted; objects that lie about are left out.
fn source_files(root: &Path) -> Result<Vec<PathBuf>> {
    fn collect(root: &Path, directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                collect(root, &path, files)?;
                continue;
            }
            let source = path
                .extension()
                .is_some_and(|extension| extension == "c" || extension == "h")
                || path.file_name().is_some_and(|name| name == "Makefile");
            if source {
                files.push(path.strip_prefix(root)?.to_owned());
            }
        }
        Ok(())
    }
    let mut files = Vec::new();
    collect(root, root, &mut files)?;
    files.sort();
    Ok(files)
}

/// Whether most sources of the two directories are the same.
fn resembles(source: &Path, other: &Path) -> Result<bool> {
    let files = source_files(source)?;
    let same = files.iter().filter(|name| same(source, other, name));
    Ok(same.count() * 2 > files.len())
}

fn same(left: &Path, right: &Path, name: &Path) -> bool {
    let read = |root: &Path| fs::read(root.join(name)).ok();
    read(left).is_some_and(|text| Some(text) == read(right))
}

/// Makes the sources below `tree` those of `source`; what is the same keeps its time.
fn lay_over(source: &Path, tree: &Path) -> Result<()> {
    let files = source_files(source)?;
    for name in source_files(tree)? {
        if !files.contains(&name) {
            let gone = tree.join(&name);
            fs::remove_file(&gone).with_context(|| format!("cannot remove {}", gone.display()))?;
        }
    }
    for name in files.iter().filter(|name| !same(source, tree, name)) {
        let place = tree.join(name);
        if let Some(directory) = place.parent() {
            fs::create_dir_all(directory)?;
        }
        let text = fs::read(source.join(name))?;
        fs::write(&place, text).with_context(|| format!("cannot write {}", place.display()))?;
    }
    Ok(())
}

fn short(hash: &[u8]) -> String {
    hash.iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn source_dir(filesystem: FilesystemKind) -> String {
    format!("fs/{}", filesystem.module())
}

/// Hexadecimal digits that stand for a text.
pub(super) fn digest(text: &str) -> String {
    short(&Sha256::digest(text.as_bytes()))
}

/// The directory `make -C` wants: the kernel's own tree, or headers and kbuild, unpacked.
fn headers(cache: &Cache, kernel: &Kernel, progress: &mut ProgressFn) -> Result<PathBuf> {
    if let Origin::Built { tree, .. } = &kernel.origin {
        return Ok(tree.clone());
    }
    let package = format!("linux-headers-{}", kernel.release);
    let version = source_version(kernel)?;
    let item = cache.item(&format!("headers/{version}"), |staging| {
        let root = staging.dir.join("root");
        fs::create_dir_all(&root)?;
        from_any_mirror(cache, progress, |mirror, progress| {
            let mut parts = vec![package.clone()];
            parts.extend(mirror.dependencies(&package).into_iter().filter(|name| {
                name.starts_with("linux-headers-") || name.starts_with("linux-kbuild-")
            }));
            for name in parts {
                let package = Package {
                    name,
                    version: version.to_owned(),
                };
                mirror.unpack_into(&package, &root, progress)?;
            }
            Ok(())
        })?;
        let makefile = root.join("usr/src").join(&package).join("Makefile");
        let text = fs::read_to_string(&makefile)
            .with_context(|| format!("cannot read {}", makefile.display()))?;
        let place = staging.destination.join("root/usr/src/");
        fs::write(
            &makefile,
            text.replace("/usr/src/", &place.to_string_lossy()),
        )?;
        Ok(())
    })?;
    Ok(item.join("root/usr/src").join(package))
}

/// Tries the host's mirror, then all of Debian's suites with fresh lists: a kernel need not
/// have come from the one that still has its source.
fn from_any_mirror(
    cache: &Cache,
    progress: &mut ProgressFn,
    mut get: impl FnMut(&Mirror, &mut ProgressFn) -> Result<()>,
) -> Result<()> {
    if get(&Mirror::of_host(), progress).is_ok() {
        return Ok(());
    }
    let all = Mirror::of_all_suites(cache)?;
    all.update()?;
    get(&all, progress).context(SOURCE_GONE)
}

const SOURCE_GONE: &str = "the mirrors keep source and headers only for the newest kernels: \
                           run `apt-get update` and take the newest kernel of the series";

/// Names in the cache what is made from the kernel.
fn key(kernel: &Kernel) -> Result<&str> {
    kernel.origin.key().ok_or_else(|| {
        anyhow!(
            "kernel {} was given by path: its modules cannot be rebuilt from Debian's packages",
            kernel.release
        )
    })
}

/// Version of Debian's source package.
fn source_version(kernel: &Kernel) -> Result<&str> {
    match &kernel.origin {
        Origin::Package(version) => Ok(version),
        Origin::Built { source, .. } => Ok(source),
        Origin::Path => key(kernel),
    }
}

/// Unpacks `fs/xfs` and `fs/ext4` of the kernel's source.
fn sources(cache: &Cache, kernel: &Kernel, progress: &mut ProgressFn) -> Result<PathBuf> {
    let version = source_version(kernel)?;
    cache.item(&format!("sources/{version}"), |staging| {
        unpack_source(
            cache,
            &kernel.source_series()?,
            version,
            &["fs/xfs", "fs/ext4"],
            &staging.dir,
            progress,
        )
    })
}

/// Unpacks Debian's source of a kernel into a directory: these parts of it, or all if there are none.
pub(super) fn unpack_source(
    cache: &Cache,
    series: &str,
    version: &str,
    parts: &[&str],
    directory: &Path,
    progress: &mut ProgressFn,
) -> Result<()> {
    let name = format!("linux-source-{series}");
    let package = Package {
        name: name.clone(),
        version: version.to_owned(),
    };
    let root = directory.join("package");
    fs::create_dir_all(&root)?;
    from_any_mirror(cache, progress, |mirror, progress| {
        mirror.unpack_into(&package, &root, progress)
    })?;
    let archive = root.join(format!("usr/src/{name}.tar.xz"));
    let parts: Vec<String> = parts.iter().map(|part| format!("{name}/{part}")).collect();
    let mut arguments = vec![
        "-xf".as_ref(),
        archive.as_os_str(),
        "-C".as_ref(),
        directory.as_os_str(),
        "--strip-components=1".as_ref(),
    ];
    arguments.extend(parts.iter().map(OsStr::new));
    output("tar", &arguments)?;
    fs::remove_dir_all(&root).context("cannot remove the unpacked package")
}

/// The unpatched tree with its objects.
fn baseline(
    cache: &Cache,
    kernel: &Kernel,
    filesystem: FilesystemKind,
    headers: &Path,
    progress: &mut ProgressFn,
) -> Result<PathBuf> {
    let name = filesystem.module();
    cache.item(&format!("trees/{}_{name}", key(kernel)?), |staging| {
        require_tools(headers)?;
        let sources = sources(cache, kernel, progress)?;
        progress(Progress::BuildingModule(format!(
            "{name} for {}, all of it (once)",
            kernel.release
        )));
        fs::create_dir_all(staging.dir.join("fs"))?;
        let directory = source_dir(filesystem);
        copy_tree(&sources.join(&directory), &staging.dir.join(&directory))?;
        fs::write(
            staging.dir.join(BUILD_PATH),
            staging.dir.as_os_str().as_encoded_bytes(),
        )?;
        make_filesystem(
            headers,
            &staging.dir,
            filesystem,
            &staging.dir.join("build.log"),
        )
    })
}

fn require_tools(headers: &Path) -> Result<()> {
    let variables = fs::read_to_string(headers.join(".kernelvariables")).unwrap_or_default();
    host::require(&host::build_tools(compiler(&variables).as_deref()))
}

/// The compiler the kernel was built with: `gcc-12` of `CC = … $(CROSS_COMPILE)gcc-12`.
fn compiler(variables: &str) -> Option<String> {
    let line = variables
        .lines()
        .find(|line| line.trim_start().starts_with("CC "))?;
    let word = line.rsplit([' ', ')']).next()?.trim();
    word.starts_with("gcc").then(|| word.to_owned())
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    // Time stamps must survive: make compares them.
    let arguments = [
        "-a".as_ref(),
        "--reflink=auto".as_ref(),
        from.as_os_str(),
        to.as_os_str(),
    ];
    output("cp", &arguments)
        .map(drop)
        .context("cannot copy the build tree")
}

/// Rewrites the paths in kbuild's files to where the tree stands now; kbuild would
/// otherwise compile everything again.
fn relocate(tree: &Path) -> Result<()> {
    let recorded = tree.join(BUILD_PATH);
    let old = fs::read_to_string(&recorded)
        .with_context(|| format!("cannot read {}", recorded.display()))?;
    let new = tree.to_string_lossy().into_owned();
    rewrite_below(tree, &old, &new)
}

fn rewrite_below(directory: &Path, old: &str, new: &str) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            rewrite_below(&path, old, new)?;
            continue;
        }
        if !path
            .extension()
            .is_some_and(|extension| extension == "cmd" || extension == "mod")
        {
            continue;
        }
        let modified = entry.metadata()?.modified()?;
        let text = fs::read_to_string(&path)?;
        fs::write(&path, text.replace(old, new))?;
        fs::File::options()
            .write(true)
            .open(&path)?
            .set_modified(modified)?;
    }
    Ok(())
}

fn apply(patch: &str, tree: &Path) -> Result<()> {
    let mut child = Command::new("patch")
        .args(["-p1", "--fuzz=0", "--no-backup-if-mismatch", "-d"])
        .arg(tree)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run patch; `apt-get install patch`")?;
    let mut stdin = child
        .stdin
        .take()
        .ok_or_else(|| anyhow!("patch has no stdin"))?;
    // A patch that stops reading has printed why.
    let _ = stdin.write_all(patch.as_bytes());
    drop(stdin);
    let result = child.wait_with_output()?;
    if !result.status.success() {
        bail!(
            "the patch does not apply to this kernel version:\n{}",
            tail(&String::from_utf8_lossy(&result.stdout), 8)
        );
    }
    Ok(())
}

fn make_filesystem(
    headers: &Path,
    tree: &Path,
    filesystem: FilesystemKind,
    log: &Path,
) -> Result<()> {
    let directory = tree.join(source_dir(filesystem));
    let option = format!("{}=m", filesystem.option());
    make(headers, &directory, filesystem.module(), &[&option], log)
}

fn make(headers: &Path, directory: &Path, name: &str, options: &[&str], log: &Path) -> Result<()> {
    let jobs = std::thread::available_parallelism().map_or(1, |count| count.get());
    let log_file = fs::File::create(log).context("cannot create the build log")?;
    let status = Command::new("make")
        .arg("-C")
        .arg(headers)
        .arg(format!("M={}", directory.display()))
        .args(options)
        .arg("modules")
        .arg(format!("-j{jobs}"))
        .env_remove("MAKEFLAGS")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(log_file.try_clone()?)
        .stderr(log_file)
        .status()
        .context("cannot run make; `apt-get install make`")?;
    if !status.success() {
        let text = fs::read_to_string(log).unwrap_or_default();
        bail!("building {name} failed ({status}):\n{}", tail(&text, 25));
    }
    Ok(())
}

/// Strips DWARF (50 MB of xfs.ko become 3).
fn strip(object: &Path, stripped: &Path) -> Result<()> {
    let arguments: [&OsStr; 4] = [
        "--strip-debug".as_ref(),
        object.as_os_str(),
        "-o".as_ref(),
        stripped.as_os_str(),
    ];
    output("strip", &arguments).map(drop)
}

/// Checks that the type information stayed, without which no hook knows its arguments.
fn require_types(stripped: &Path) -> Result<()> {
    let bytes = fs::read(stripped).context("strip left no object")?;
    if elf::section(&bytes, ".BTF").is_none() {
        bail!(
            "{} has no .BTF section; the kernel's headers must carry vmlinux and pahole must \
             be installed (`apt-get install dwarves`)",
            stripped.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_is_the_kernels_own() {
        let text = "override ARCH = x86\nCCACHE = ccache\n\
                    CC = $(if $(DEBIAN_KERNEL_USE_CCACHE),$(CCACHE)) $(CROSS_COMPILE)gcc-12\n";
        assert_eq!(compiler(text).as_deref(), Some("gcc-12"));
        assert_eq!(compiler(""), None);
    }

    #[test]
    fn a_copied_tree_names_its_new_place() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("fs/xfs")).unwrap();
        fs::write(tree.join(BUILD_PATH), "/old/place").unwrap();
        let command = tree.join("fs/xfs/.a.o.cmd");
        fs::write(&command, "savedcmd := gcc -o /old/place/fs/xfs/a.o\n").unwrap();
        fs::write(tree.join("fs/xfs/a.c"), "/old/place").unwrap();
        relocate(&tree).unwrap();
        let text = fs::read_to_string(command).unwrap();
        assert_eq!(
            text,
            format!("savedcmd := gcc -o {}/fs/xfs/a.o\n", tree.display())
        );
        assert_eq!(
            fs::read_to_string(tree.join("fs/xfs/a.c")).unwrap(),
            "/old/place"
        );
    }

    #[test]
    fn only_what_differs_is_written_over_a_built_tree() {
        let dir = tempfile::tempdir().unwrap();
        let [source, tree] = ["source", "tree"].map(|name| dir.path().join(name));
        for (root, files) in [
            (
                &source,
                &[
                    ("a.c", "1"),
                    ("sub/b.h", "2"),
                    ("new.c", "3"),
                    ("Makefile", "4"),
                ][..],
            ),
            (
                &tree,
                &[
                    ("a.c", "1"),
                    ("sub/b.h", "0"),
                    ("old.c", "5"),
                    ("Makefile", "4"),
                ],
            ),
        ] {
            fs::create_dir_all(root.join("sub")).unwrap();
            for (name, text) in files {
                fs::write(root.join(name), text).unwrap();
            }
        }
        fs::write(source.join("a.o"), "of another build").unwrap();
        fs::write(tree.join("a.o"), "built").unwrap();
        let before = fs::metadata(tree.join("a.c")).unwrap().modified().unwrap();
        assert!(!resembles(&source, &tree).unwrap());
        lay_over(&source, &tree).unwrap();
        assert!(resembles(&source, &tree).unwrap());
        assert_eq!(source_files(&source).unwrap(), source_files(&tree).unwrap());
        assert_eq!(fs::read_to_string(tree.join("sub/b.h")).unwrap(), "2");
        assert_eq!(fs::read_to_string(tree.join("a.o")).unwrap(), "built");
        let after = fs::metadata(tree.join("a.c")).unwrap().modified().unwrap();
        assert_eq!(before, after);
    }

    #[test]
    fn the_key_follows_the_patch() {
        assert_ne!(digest("a"), digest("b"));
        assert_eq!(digest("a").len(), 16);
    }
}
