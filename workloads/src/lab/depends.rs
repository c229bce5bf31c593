//! Which kernel modules a guest needs, in load order.
//!
//! Debian's packages carry no `modules.dep`: `depmod` writes it at installation. The
//! dependencies are therefore read where depmod reads them, in each module's `.modinfo`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};

use super::elf;

/// A module, decompressed.
#[derive(Debug, Clone)]
pub struct ModuleFile {
    /// Name with `_` for `-`.
    pub name: String,
    /// The ELF object.
    pub object: Vec<u8>,
}

/// What a module asks for before it is loaded.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Needs {
    /// Modules whose symbols it uses.
    hard: Vec<String>,
    /// Modules it asks for at run time (`MODULE_SOFTDEP("pre: …")`).
    soft: Vec<String>,
}

/// The modules of one kernel by name.
#[derive(Debug)]
pub struct ModuleIndex {
    directory: PathBuf,
    files: BTreeMap<String, PathBuf>,
    builtin: BTreeSet<String>,
}

impl ModuleIndex {
    /// Lists `lib/modules/RELEASE`.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn scan(modules_dir: &Path) -> Result<Self> {
        let mut files = BTreeMap::new();
        collect(&modules_dir.join("kernel"), &mut files)
            .with_context(|| format!("cannot list the modules in {}", modules_dir.display()))?;
        let builtin = fs::read_to_string(modules_dir.join("modules.builtin")).unwrap_or_default();
        Ok(Self {
            directory: modules_dir.to_owned(),
            files,
            builtin: parse_builtin(&builtin),
        })
    }

    /// Whether the kernel has the module built in.
    pub fn is_builtin(&self, name: &str) -> bool {
        self.builtin.contains(&normalise(name))
    }

    /// The wanted modules and all they need, each after what it needs; built-in ones are
    /// left out.
    ///
    /// # Errors
    /// A module is neither there nor built in, or cannot be decompressed.
    pub fn load_order(&self, wanted: &[&str]) -> Result<Vec<ModuleFile>> {
        let mut objects = BTreeMap::new();
        let order = order(wanted, &mut |name| {
            if let Some(path) = self.files.get(name) {
                let object = read_object(path)?;
                let needs = needs_of(&object);
                objects.insert(name.to_owned(), object);
                return Ok(Some(needs));
            }
            if self.builtin.contains(name) {
                return Ok(Some(Needs::default()));
            }
            Ok(None)
        })
        .with_context(|| format!("modules in {}", self.directory.display()))?;
        Ok(order
            .into_iter()
            .filter_map(|name| {
                let object = objects.remove(&name)?;
                Some(ModuleFile { name, object })
            })
            .collect())
    }
}

/// Depth-first order over the dependencies; `lookup` knows a module's needs.
fn order(
    wanted: &[&str],
    lookup: &mut dyn FnMut(&str) -> Result<Option<Needs>>,
) -> Result<Vec<String>> {
    let mut visit = Visit {
        lookup,
        seen: BTreeSet::new(),
        order: Vec::new(),
    };
    for name in wanted {
        if !visit.module(&normalise(name))? {
            bail!("module {name} is neither in the kernel package nor built in");
        }
    }
    Ok(visit.order)
}

struct Visit<'a> {
    lookup: &'a mut dyn FnMut(&str) -> Result<Option<Needs>>,
    seen: BTreeSet<String>,
    order: Vec<String>,
}

impl Visit<'_> {
    /// Returns whether the module exists.
    fn module(&mut self, name: &str) -> Result<bool> {
        if self.seen.contains(name) {
            return Ok(true);
        }
        let Some(needs) = (self.lookup)(name)? else {
            return Ok(false);
        };
        self.seen.insert(name.to_owned());
        for soft in &needs.soft {
            // Often an alias of an algorithm (`crc32c`, `crypto-crc32c`), whose plain
            // implementation is named after it. Absent ones are no error.
            let plain = soft.strip_prefix("crypto_").unwrap_or(soft);
            if !self.module(soft)? && !self.module(plain)? {
                self.module(&format!("{plain}_generic"))?;
            }
        }
        for hard in &needs.hard {
            if !self.module(hard)? {
                bail!("module {hard}, needed by {name}, is missing");
            }
        }
        self.order.push(name.to_owned());
        Ok(true)
    }
}

fn needs_of(object: &[u8]) -> Needs {
    elf::section(object, ".modinfo")
        .map(parse_modinfo)
        .unwrap_or_default()
}

fn parse_modinfo(section: &[u8]) -> Needs {
    let mut needs = Needs::default();
    for entry in section.split(|byte| *byte == 0) {
        let entry = String::from_utf8_lossy(entry);
        if let Some(list) = entry.strip_prefix("depends=") {
            needs.hard.extend(
                list.split(',')
                    .filter(|name| !name.is_empty())
                    .map(normalise),
            );
        } else if let Some(list) = entry.strip_prefix("softdep=") {
            let before = list.split("post:").next().unwrap_or_default();
            let names = before.split_whitespace().filter(|word| *word != "pre:");
            needs.soft.extend(names.map(normalise));
        }
    }
    needs
}

fn parse_builtin(list: &str) -> BTreeSet<String> {
    list.lines()
        .filter_map(|line| module_name(Path::new(line)))
        .collect()
}

/// `nd_e820` of `kernel/drivers/nvdimm/nd_e820.ko.xz`.
fn module_name(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let (stem, rest) = name.split_once(".ko")?;
    matches!(rest, "" | ".xz" | ".zst" | ".gz").then(|| normalise(stem))
}

fn normalise(name: &str) -> String {
    name.replace('-', "_")
}

fn collect(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else if let Some(name) = module_name(&entry.path()) {
            files.insert(name, entry.path());
        }
    }
    Ok(())
}

fn read_object(path: &Path) -> Result<Vec<u8>> {
    let bytes = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    decompress(bytes).with_context(|| format!("cannot decompress {}", path.display()))
}

/// Decompresses xz, zstd or gzip by their magic numbers; other bytes pass unchanged.
///
/// # Errors
/// The data is damaged, or `xz` / `gzip` is not installed.
pub(crate) fn decompress(bytes: Vec<u8>) -> Result<Vec<u8>> {
    if bytes.starts_with(b"\xfd7zXZ\0") {
        filter("xz", &bytes)
    } else if bytes.starts_with(b"\x1f\x8b") {
        filter("gzip", &bytes)
    } else if bytes.starts_with(b"\x28\xb5\x2f\xfd") {
        Ok(zstd::decode_all(bytes.as_slice())?)
    } else {
        Ok(bytes)
    }
}

fn filter(program: &str, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut child = Command::new(program)
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot run {program}; install {program}"))?;
    let mut stdin = child
        .stdin
        .take()
        .ok_or_else(|| anyhow!("{program} has no stdin"))?;
    let output = std::thread::scope(|scope| {
        // A closed pipe means the program stopped early; its exit status tells.
        scope.spawn(move || drop(stdin.write_all(bytes)));
        child.wait_with_output()
    })?;
    if !output.status.success() {
        bail!("{program} -dc failed ({})", output.status);
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modinfo_gives_hard_and_soft_needs() {
        let section =
            b"license=GPL\0softdep=pre: crc32c post: late\0depends=libcrc32c,nd-btt\0\0name=xfs\0";
        let needs = parse_modinfo(section);
        assert_eq!(needs.hard, ["libcrc32c", "nd_btt"]);
        assert_eq!(needs.soft, ["crc32c"]);
        assert_eq!(parse_modinfo(b"depends=\0"), Needs::default());
    }

    #[test]
    fn each_module_comes_after_what_it_needs() {
        let table = BTreeMap::from([
            ("xfs", (vec!["libcrc32c"], vec![])),
            ("ext4", (vec!["jbd2", "mbcache"], vec!["crypto_crc32c"])),
            ("libcrc32c", (vec![], vec!["crc32c", "absent"])),
            ("crc32c_generic", (vec![], vec![])),
            ("jbd2", (vec![], vec![])),
            ("mbcache", (vec![], vec![])),
        ]);
        let own = |list: &Vec<&str>| list.iter().map(|name| (*name).to_owned()).collect();
        let mut lookup = |name: &str| {
            Ok(table.get(name).map(|(hard, soft)| Needs {
                hard: own(hard),
                soft: own(soft),
            }))
        };
        let order = order(&["xfs", "ext4"], &mut lookup).unwrap();
        assert_eq!(
            order,
            [
                "crc32c_generic",
                "libcrc32c",
                "xfs",
                "jbd2",
                "mbcache",
                "ext4"
            ]
        );
        assert!(super::order(&["btrfs"], &mut lookup).is_err());
    }

    #[test]
    fn names_are_those_of_the_files() {
        let name = |path: &str| module_name(Path::new(path));
        assert_eq!(
            name("kernel/drivers/nvdimm/nd_e820.ko.xz").as_deref(),
            Some("nd_e820")
        );
        assert_eq!(
            name("kernel/arch/x86/crypto/crc32c-intel.ko").as_deref(),
            Some("crc32c_intel")
        );
        assert_eq!(name("kernel/modules.order"), None);
        let builtin = parse_builtin("kernel/drivers/virtio/virtio_pci.ko\nkernel/fs/dax.ko\n");
        assert!(builtin.contains("virtio_pci") && builtin.len() == 2);
    }

    #[test]
    fn plain_and_zstd_data_decompress() {
        assert_eq!(decompress(b"plain".to_vec()).unwrap(), b"plain");
        let packed = zstd::encode_all(&b"packed"[..], 1).unwrap();
        assert_eq!(decompress(packed).unwrap(), b"packed");
    }
}
