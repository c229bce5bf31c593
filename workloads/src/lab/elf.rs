//! Sections of a 64-bit little-endian ELF file: enough to read a kernel module's
//! `.modinfo` and to see whether it still has its `.BTF`.

/// The bytes of a section; `None` if the file is no such ELF file, is cut short, or has
/// no section of that name.
pub fn section<'a>(file: &'a [u8], name: &str) -> Option<&'a [u8]> {
    if !file.starts_with(b"\x7fELF\x02\x01") {
        return None;
    }
    let table = to_usize(u64_at(file, 0x28)?)?;
    let entry_size = usize::from(u16_at(file, 0x3a)?);
    let count = usize::from(u16_at(file, 0x3c)?);
    let names_index = usize::from(u16_at(file, 0x3e)?);
    let header = |index: usize| file.get(table.checked_add(index.checked_mul(entry_size)?)?..);
    let names = contents(file, header(names_index)?)?;
    (0..count).find_map(|index| {
        let header = header(index)?;
        let label = names.get(to_usize(u64::from(u32_at(header, 0)?))?..)?;
        let end = label.iter().position(|byte| *byte == 0)?;
        (&label[..end] == name.as_bytes())
            .then(|| contents(file, header))
            .flatten()
    })
}

fn contents<'a>(file: &'a [u8], header: &[u8]) -> Option<&'a [u8]> {
    let offset = to_usize(u64_at(header, 0x18)?)?;
    let size = to_usize(u64_at(header, 0x20)?)?;
    file.get(offset..offset.checked_add(size)?)
}

fn to_usize(value: u64) -> Option<usize> {
    usize::try_from(value).ok()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_of_this_test_binary_are_found() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(section(&file, ".text").is_some_and(|text| !text.is_empty()));
        assert_eq!(section(&file, ".BTF"), None);
    }

    #[test]
    fn cut_files_have_no_sections() {
        let file = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        for length in [0, 4, 6, 0x20, 0x3f, 0x40, 4096] {
            assert_eq!(section(&file[..length], ".text"), None);
        }
    }
}
