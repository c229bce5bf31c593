//! The kept eBPF object and the sources must not drift apart.

use std::{fs, path::Path};

use object::{Object as _, ObjectSection as _};

const BUILT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/faultline-hooks"));
const HASH: &str = env!("FAULTLINE_EBPF_SOURCES");
const ORIGIN: &str = env!("FAULTLINE_EBPF_ORIGIN");

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf"))
}

#[test]
fn the_kept_object_is_of_these_sources() {
    let kept = fs::read_to_string(folder().join("faultline-hooks.sources.sha256")).unwrap();
    assert_eq!(
        kept.trim(),
        HASH,
        "run scripts/keep-ebpf-object and commit tracer/ebpf"
    );
}

/// Instructions, constants and maps; symbol names carry hashes that differ between machines.
fn substance(data: &[u8]) -> Vec<(String, Vec<u8>)> {
    let file = object::File::parse(data).unwrap();
    file.sections()
        .filter(|section| {
            let name = section.name().unwrap();
            [
                ".text", "fentry", "kprobe", "raw_tp", "maps", ".rodata", "license",
            ]
            .contains(&name)
        })
        .map(|section| {
            (
                section.name().unwrap().to_owned(),
                section.data().unwrap().to_vec(),
            )
        })
        .collect()
}

/// Meaningful only where the object was built from source: FAULTLINE_EBPF=build.
#[test]
fn a_rebuild_gives_the_kept_object() {
    if ORIGIN != "built" {
        assert_ne!(
            std::env::var("FAULTLINE_EBPF").as_deref(),
            Ok("build"),
            "the build script did not build although it was told to"
        );
        eprintln!(
            "the kept object itself is in use; FAULTLINE_EBPF=build compares it with a rebuild"
        );
        return;
    }
    let kept = fs::read(folder().join("faultline-hooks.o")).unwrap();
    let (kept, built) = (substance(&kept), substance(BUILT));
    assert!(built.len() >= 6, "{built:?}");
    assert!(
        kept == built,
        "a rebuild differs: run scripts/keep-ebpf-object and commit tracer/ebpf"
    );
}

#[test]
#[ignore = "writes the kept object; run by scripts/keep-ebpf-object"]
fn keep() {
    assert_eq!(ORIGIN, "built");
    fs::create_dir_all(folder()).unwrap();
    fs::write(folder().join("faultline-hooks.o"), BUILT).unwrap();
    fs::write(
        folder().join("faultline-hooks.sources.sha256"),
        format!("{HASH}\n"),
    )
    .unwrap();
}
