//! Puts the eBPF object into OUT_DIR: built from source where the toolchain is there, else the kept copy.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use aya_build::{Package, Toolchain, build_ebpf};
use sha2::{Digest as _, Sha256};

/// Kept for those who have only stable Rust; `scripts/ebpf-toolchain` gets the rest.
const KEPT_OBJECT: &str = "ebpf/faultline-hooks.o";
const KEPT_HASH: &str = "ebpf/faultline-hooks.sources.sha256";
const OBJECT: &str = "faultline-hooks";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let here = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let sources = here.join("../tracer-ebpf");
    let hash = hash_sources(&sources)?;
    println!("cargo::rerun-if-changed={}", sources.join("src").display());
    println!("cargo::rerun-if-changed={}", here.join("ebpf").display());
    println!("cargo::rerun-if-env-changed=FAULTLINE_EBPF");
    println!("cargo::rustc-env=FAULTLINE_EBPF_SOURCES={hash}");

    let kept_hash = fs::read_to_string(here.join(KEPT_HASH)).unwrap_or_default();
    let kept_fits = kept_hash.trim() == hash;
    // "build" insists on building, "kept" on the kept copy; otherwise the kept copy is used if it fits.
    let wish = env::var("FAULTLINE_EBPF").unwrap_or_default();
    if wish != "build" && kept_fits {
        fs::copy(here.join(KEPT_OBJECT), out.join(OBJECT))?;
        println!("cargo::rustc-env=FAULTLINE_EBPF_ORIGIN=kept");
        return Ok(());
    }
    if wish == "kept" {
        return Err(
            "the kept eBPF object was made from other sources; run scripts/ebpf-toolchain and \
                    build with FAULTLINE_EBPF=build"
                .into(),
        );
    }
    if let Some(missing) = missing_tool() {
        return Err(format!(
            "the eBPF sources changed since the kept object was made, and building them needs {missing}: \
             run scripts/ebpf-toolchain"
        )
        .into());
    }
    // SAFETY: a build script's only thread.
    unsafe { env::set_var("RUSTC_BOOTSTRAP", "1") };
    let toolchain = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".to_owned());
    build_ebpf(
        [Package {
            name: "tracer-ebpf",
            root_dir: sources
                .to_str()
                .ok_or("the source folder's name is not UTF-8")?,
            features: &["programs"],
            ..Package::default()
        }],
        Toolchain::Custom(&toolchain),
    )?;
    let object = out.join(OBJECT);
    fs::write(&object, strip(&fs::read(&object)?)?)?;
    println!("cargo::rustc-env=FAULTLINE_EBPF_ORIGIN=built");
    Ok(())
}

/// Drops debug information and BTF: the loader needs neither, and both name paths of the machine
/// that built them.
fn strip(object: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    const DROPPED: &[&[u8]] = &[b".debug", b".rel.debug", b".BTF", b".rel.BTF"];
    let mut builder = object::build::elf::Builder::read(object)?;
    for section in &mut builder.sections {
        section.delete = DROPPED
            .iter()
            .any(|prefix| section.name.starts_with(prefix));
    }
    builder.delete_orphans();
    // LLVM keeps section names in .strtab; the builder wants a table of their own.
    let names = builder.sections.add();
    names.name = b".shstrtab"[..].into();
    names.sh_type = object::elf::SHT_STRTAB;
    names.sh_addralign = 1;
    names.data = object::build::elf::SectionData::SectionString;
    let mut stripped = Vec::new();
    builder.write(&mut stripped)?;
    Ok(stripped)
}

/// SHA-256 over names and contents of everything the object is made from.
fn hash_sources(root: &Path) -> Result<String, Box<dyn std::error::Error>> {
    let mut files = vec![root.join("Cargo.toml")];
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path)
            } else {
                files.push(path)
            }
        }
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let text = fs::read(&file)?;
        hash.update(file.strip_prefix(root)?.as_os_str().as_encoded_bytes());
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    Ok(hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}

fn missing_tool() -> Option<&'static str> {
    if Command::new("bpf-linker")
        .arg("--version")
        .output()
        .is_err()
    {
        return Some("bpf-linker");
    }
    let sysroot = Command::new(env::var_os("RUSTC")?)
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let sysroot = PathBuf::from(String::from_utf8_lossy(&sysroot.stdout).trim());
    let core = sysroot.join("lib/rustlib/src/rust/library/core");
    (!core.exists()).then_some("rust-src for this rustc")
}
