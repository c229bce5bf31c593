//! Features of an XFS superblock that a mkfs.xfs older than the kernel does not know.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use anyhow::{Context as _, Result, bail};

/// Places in `struct xfs_dsb` and the feature's bit (fs/xfs/libxfs/xfs_format.h).
const MAGIC: &[u8; 4] = b"XFSB";
const VERSION: usize = 100;
const VERSION_MASK: u16 = 0xf;
const SECTOR_SIZE: usize = 102;
const INCOMPAT: usize = 216;
const CRC: usize = 224;
const EXCHANGE_RANGE: u32 = 1 << 6;

/// Lets a freshly made filesystem exchange ranges, as `mkfs.xfs -i exchange=1` does since xfsprogs 6.10. Only
/// the first superblock is changed, which is the one that is read at mount.
///
/// # Errors
/// The device cannot be read or written, or holds no XFS with checksums.
pub(super) fn allow_exchange(device: &Path) -> Result<()> {
    let file = File::options()
        .read(true)
        .write(true)
        .open(device)
        .with_context(|| format!("cannot open {}", device.display()))?;
    change(&file).with_context(|| format!("cannot change the superblock of {}", device.display()))
}

fn change(file: &File) -> Result<()> {
    let mut head = [0; 512];
    file.read_exact_at(&mut head, 0)?;
    if &head[..4] != MAGIC || be16(&head, VERSION) & VERSION_MASK != 5 {
        bail!("it is no XFS with checksums (version 5)");
    }
    let mut sector = vec![0; usize::from(be16(&head, SECTOR_SIZE))];
    file.read_exact_at(&mut sector, 0)?;
    set(&mut sector);
    file.write_all_at(&sector, 0)?;
    // The kernel reads it past this device's page cache.
    file.sync_all().map_err(io::Error::into)
}

fn set(sector: &mut [u8]) {
    let mut features = [0; 4];
    features.copy_from_slice(&sector[INCOMPAT..INCOMPAT + 4]);
    let features = u32::from_be_bytes(features) | EXCHANGE_RANGE;
    sector[INCOMPAT..INCOMPAT + 4].copy_from_slice(&features.to_be_bytes());
    sector[CRC..CRC + 4].fill(0);
    let crc = crc32c::crc32c(sector);
    sector[CRC..CRC + 4].copy_from_slice(&crc.to_le_bytes());
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn superblock(version: u16) -> Vec<u8> {
        let mut sector = vec![0xa5; 4096];
        sector[..4].copy_from_slice(MAGIC);
        sector[VERSION..VERSION + 2].copy_from_slice(&(0xb4a0 | version).to_be_bytes());
        sector[SECTOR_SIZE..SECTOR_SIZE + 2].copy_from_slice(&4096_u16.to_be_bytes());
        sector[INCOMPAT..INCOMPAT + 4].copy_from_slice(&0x3_u32.to_be_bytes());
        sector
    }

    #[test]
    fn one_bit_and_the_checksum_change() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let before = superblock(5);
        std::fs::write(file.path(), &before).unwrap();
        allow_exchange(file.path()).unwrap();
        let after = std::fs::read(file.path()).unwrap();
        let changed: Vec<_> = (0..4096).filter(|&at| before[at] != after[at]).collect();
        assert!(
            changed
                .iter()
                .all(|at| (CRC..CRC + 4).contains(at) || *at == INCOMPAT + 3)
        );
        assert_eq!(after[INCOMPAT + 3], 0x43);
        let mut zeroed = after.clone();
        zeroed[CRC..CRC + 4].fill(0);
        assert_eq!(after[CRC..CRC + 4], crc32c::crc32c(&zeroed).to_le_bytes());
    }

    #[test]
    fn what_is_no_xfs_with_checksums_is_left_alone() {
        for bytes in [vec![0; 4096], superblock(4)] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            let error = format!("{:#}", allow_exchange(file.path()).unwrap_err());
            assert!(error.contains("no XFS with checksums"), "{error}");
            assert_eq!(std::fs::read(file.path()).unwrap(), bytes);
        }
    }
}
