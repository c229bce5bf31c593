//! The guest's root: a newc archive under zstd, in memory and on disk a few megabytes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use cpio::newc;

use super::depends::ModuleFile;
use super::elf;
use super::host::find_program;
use super::job::{JOB_PATH, Job, MODULE_DIR};
use super::packages::output;

/// The level costs a tenth of a second on the host; higher ones gain nothing in the guest.
const COMPRESSION_LEVEL: i32 = 1;

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const LINK: u32 = 0o120_777;

/// A tree of files to be packed.
#[derive(Debug, Default)]
pub struct Archive {
    entries: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    mode: u32,
    data: Vec<u8>,
}

impl Archive {
    /// A root with the usual empty directories.
    pub fn new() -> Self {
        let mut archive = Self::default();
        for directory in [
            "dev", "etc", "mnt", "proc", "result", "root", "run", "sys", "tmp", "var/tmp",
        ] {
            archive.directory(directory);
        }
        archive
    }

    /// Adds a directory and those above it.
    pub fn directory(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.entries.contains_key(path) {
            return;
        }
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.entries.insert(
            path.to_owned(),
            Entry {
                mode: DIRECTORY,
                data: Vec::new(),
            },
        );
    }

    /// Adds a file from memory.
    pub fn file(&mut self, path: &str, data: Vec<u8>, executable: bool) {
        self.insert(path, if executable { PROGRAM } else { FILE }, data);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.insert(path, LINK, target.as_bytes().to_vec());
    }

    fn insert(&mut self, path: &str, mode: u32, data: Vec<u8>) {
        let path = path.trim_matches('/');
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
        self.entries.insert(path.to_owned(), Entry { mode, data });
    }

    /// Adds a program of the host with the shared libraries it is linked with; without
    /// its debug information, which the guest would spend a second unpacking.
    ///
    /// # Errors
    /// It cannot be read, or one of its libraries is not found.
    pub fn program(&mut self, source: &Path, path: &str) -> Result<()> {
        let data = fs::read(source)
            .with_context(|| format!("cannot read the program {}", source.display()))?;
        self.file(path, without_debug(source, data), true);
        for library in libraries(source)? {
            let name = library.trim_start_matches('/');
            if !self.entries.contains_key(name) {
                let data = fs::read(&library)
                    .with_context(|| format!("cannot read the library {library}"))?;
                self.file(name, data, true);
            }
        }
        Ok(())
    }

    /// Adds a static busybox and its applets, if the host has one.
    ///
    /// # Errors
    /// It is there and cannot be run or read.
    pub fn busybox(&mut self) -> Result<bool> {
        let Some(path) = find_program("busybox") else {
            return Ok(false);
        };
        let applets = output(&path.to_string_lossy(), &["--list".as_ref()])?;
        self.program(&path, "bin/busybox")?;
        let taken: BTreeSet<String> = self
            .entries
            .keys()
            .filter_map(|entry| entry.rsplit_once('/').map(|(_, name)| name.to_owned()))
            .collect();
        for applet in applets.lines().filter(|applet| !taken.contains(*applet)) {
            self.link(&format!("bin/{applet}"), "/bin/busybox");
        }
        Ok(true)
    }

    /// Adds modules below [`MODULE_DIR`]; returns their file names in the given order.
    pub fn modules(&mut self, modules: Vec<ModuleFile>) -> Vec<String> {
        modules
            .into_iter()
            .map(|module| {
                let name = format!("{}.ko", module.name);
                self.file(&format!("{MODULE_DIR}/{name}"), module.object, false);
                name
            })
            .collect()
    }

    /// Adds the job.
    ///
    /// # Errors
    /// It cannot be written as JSON.
    pub fn job(&mut self, job: &Job) -> Result<()> {
        self.file(JOB_PATH, serde_json::to_vec_pretty(job)?, false);
        Ok(())
    }

    /// Writes the archive, compressed.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        let file =
            fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        let mut encoder = zstd::Encoder::new(file, COMPRESSION_LEVEL)?;
        self.pack(&mut encoder)
            .and_then(|()| encoder.finish()?.sync_data().map_err(Into::into))
            .with_context(|| format!("cannot write {}", path.display()))
    }

    fn pack(&self, mut writer: &mut dyn Write) -> Result<()> {
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            let size = u32::try_from(entry.data.len())
                .map_err(|_| anyhow!("{path} is larger than 4 GiB"))?;
            let mut member = newc::Builder::new(path)
                .ino(number)
                .nlink(1)
                .mode(entry.mode)
                .write(writer, size);
            member.write_all(&entry.data)?;
            writer = member.finish()?;
        }
        newc::trailer(writer)?;
        Ok(())
    }
}

/// Resolves a program given by name or path.
///
/// # Errors
/// There is none.
pub fn resolve(program: &str) -> Result<PathBuf> {
    if program.contains('/') {
        return Ok(PathBuf::from(program));
    }
    find_program(program).ok_or_else(|| anyhow!("program {program} is not on this host"))
}

/// A host without `strip` gives the program as it is.
fn without_debug(source: &Path, data: Vec<u8>) -> Vec<u8> {
    let debug = [".debug_info", ".debug_line"];
    if !debug.iter().any(|name| elf::section(&data, name).is_some()) {
        return data;
    }
    let stripped = || -> Result<Vec<u8>> {
        let file = tempfile::NamedTempFile::new()?;
        output(
            "strip",
            &[
                "--strip-debug".as_ref(),
                source.as_os_str(),
                "-o".as_ref(),
                file.path().as_os_str(),
            ],
        )?;
        Ok(fs::read(file.path())?)
    };
    stripped().unwrap_or(data)
}

fn libraries(program: &Path) -> Result<Vec<String>> {
    let result = Command::new("ldd")
        .arg(program)
        .env("LC_ALL", "C")
        .output()
        .context("cannot run ldd; `apt-get install libc-bin`")?;
    // It fails for static programs and scripts, which need no libraries.
    if !result.status.success() {
        return Ok(Vec::new());
    }
    parse_ldd(&String::from_utf8_lossy(&result.stdout))
        .with_context(|| format!("libraries of {}", program.display()))
}

fn parse_ldd(text: &str) -> Result<Vec<String>> {
    let mut libraries = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.contains("not found") {
            bail!("{line}");
        }
        let path = line.rsplit_once("=> ").map_or(line, |(_, path)| path);
        let path = path.split(" (").next().unwrap_or_default();
        if path.starts_with('/') {
            libraries.push(path.to_owned());
        }
    }
    Ok(libraries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_archive_holds_parents_before_children() {
        let mut archive = Archive::new();
        archive.file("/init", b"#!/bin/sh\n".to_vec(), true);
        archive.link("bin/sh", "/bin/busybox");
        let order = archive.modules(vec![
            ModuleFile {
                name: "xfs".into(),
                object: b"x".to_vec(),
            },
            ModuleFile {
                name: "ext4".into(),
                object: b"e".to_vec(),
            },
        ]);
        assert_eq!(order, ["xfs.ko", "ext4.ko"]);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("initramfs");
        archive.write(&path).unwrap();

        let mut members = BTreeMap::new();
        let mut input: Box<dyn Read> =
            Box::new(zstd::Decoder::new(fs::File::open(path).unwrap()).unwrap());
        let mut names = Vec::new();
        loop {
            let mut reader = newc::Reader::new(input).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let mut data = Vec::new();
            reader.read_to_end(&mut data).unwrap();
            members.insert(name.clone(), (mode, data));
            names.push(name);
            input = Box::new(reader.finish().unwrap());
        }
        assert_eq!(members["init"], (PROGRAM, b"#!/bin/sh\n".to_vec()));
        assert_eq!(members["bin/sh"], (LINK, b"/bin/busybox".to_vec()));
        assert_eq!(members["lib/faultline/ext4.ko"], (FILE, b"e".to_vec()));
        for name in &names {
            if let Some((parent, _)) = name.rsplit_once('/') {
                let place = |wanted: &str| names.iter().position(|name| name == wanted).unwrap();
                assert!(place(parent) < place(name), "{name}");
            }
        }
    }

    #[test]
    fn ldd_gives_paths() {
        let text = "\tlinux-vdso.so.1 (0x00007ffc)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        assert_eq!(
            parse_ldd(text).unwrap(),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert!(parse_ldd("\tlibgone.so.1 => not found\n").is_err());
        assert!(parse_ldd("\tstatically linked\n").unwrap().is_empty());
    }
}
