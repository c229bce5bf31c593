//! Types of the running kernel, from the BTF of vmlinux and of its modules.

use std::{collections::BTreeMap, path::Path};

use btf_rs::{Btf, BtfType, Type};

/// Where the kernel shows its BTF.
const BTF_DIRECTORY: &str = "/sys/kernel/btf";

/// Why a type question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum TypesError {
    /// No BTF at all.
    #[error(
        "this kernel shows no BTF ({path}): Faultline needs CONFIG_DEBUG_INFO_BTF=y (distribution \
         kernels since 2021 have it)"
    )]
    NoBtf {
        /// File looked for.
        path: String,
    },
    /// BTF that cannot be read.
    #[error("cannot read the BTF of {name}")]
    Unreadable {
        /// vmlinux or a module.
        name: String,
        /// From the parser.
        source: btf_rs::Error,
    },
    /// No such struct or field.
    #[error("this kernel's BTF has no {what}")]
    Missing {
        /// `struct x` or `x.field`.
        what: String,
    },
}

/// A field's place in its struct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Bytes from the start of the struct.
    pub offset: u32,
    /// Bytes; 0 if the type has no plain size.
    pub size: u32,
}

/// A function that trampolines can attach to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Module, or `None` for vmlinux.
    pub module: Option<String>,
    /// BTF id within vmlinux's or the module's numbering.
    pub id: u32,
}

/// BTF of vmlinux and of chosen modules.
pub struct KernelTypes {
    vmlinux: Btf,
    modules: BTreeMap<String, Btf>,
}

impl KernelTypes {
    /// Reads vmlinux and those of `modules` that are loaded; the rest are taken to be built in.
    pub fn load(modules: &[&str]) -> Result<Self, TypesError> {
        let directory = Path::new(BTF_DIRECTORY);
        let base = directory.join("vmlinux");
        if !base.exists() {
            return Err(TypesError::NoBtf {
                path: base.display().to_string(),
            });
        }
        let unreadable = |name: &str| {
            let name = name.to_owned();
            move |source| TypesError::Unreadable { name, source }
        };
        let vmlinux = Btf::from_file(&base).map_err(unreadable("vmlinux"))?;
        let mut parsed = BTreeMap::new();
        for &name in modules {
            let path = directory.join(name);
            if path.exists() {
                let btf = Btf::from_split_file(&path, &vmlinux).map_err(unreadable(name))?;
                parsed.insert(name.to_owned(), btf);
            }
        }
        Ok(Self {
            vmlinux,
            modules: parsed,
        })
    }

    /// Modules whose BTF was found.
    pub fn modules(&self) -> impl Iterator<Item = &str> {
        self.modules.keys().map(String::as_str)
    }

    /// The function's BTF id, in a module first if it is there.
    pub fn function(&self, name: &str) -> Option<Function> {
        let is_function =
            |btf: &Btf, id: &u32| matches!(btf.resolve_type_by_id(*id), Ok(Type::Func(_)));
        for (module, btf) in &self.modules {
            let split = btf.split()?;
            if let Some(id) = split
                .resolve_ids_by_name(name)
                .ok()?
                .into_iter()
                .find(|id| is_function(btf, id))
            {
                return Some(Function {
                    module: Some(module.clone()),
                    id,
                });
            }
        }
        let id = self
            .vmlinux
            .resolve_ids_by_name(name)
            .ok()?
            .into_iter()
            .find(|id| is_function(&self.vmlinux, id))?;
        Some(Function { module: None, id })
    }

    /// Size of a struct in bytes.
    pub fn struct_size(&self, name: &str) -> Result<u32, TypesError> {
        self.structure(name).map(|(_, found)| found.size() as u32)
    }

    /// The place of `field` in `structure`; `field` may be dotted, and looks through anonymous members.
    pub fn field(&self, structure: &str, field: &str) -> Result<Field, TypesError> {
        let missing = || TypesError::Missing {
            what: format!("{structure}.{field}"),
        };
        let (btf, mut current) = self.structure(structure)?;
        let mut offset = 0;
        let mut parts = field.split('.').peekable();
        while let Some(part) = parts.next() {
            let (at, member) = member(btf, &current, part).ok_or_else(missing)?;
            offset += at;
            if parts.peek().is_none() {
                return Ok(Field {
                    offset,
                    size: size_of_type(btf, member).unwrap_or(0),
                });
            }
            current = match strip(btf, member) {
                Some(Type::Struct(inner) | Type::Union(inner)) => inner,
                _ => return Err(missing()),
            };
        }
        Err(missing())
    }

    /// The bits of `xa_flags` that say that a mapping has dirty pages, or pages that are being written back: the first
    /// two above those of `gfp_t` (include/linux/xarray.h, XA_FLAGS_MARK; include/linux/fs.h, PAGECACHE_TAG_DIRTY and
    /// _WRITEBACK).
    pub fn marks_of_dirty_pages(&self) -> u64 {
        // include/linux/gfp_types.h: an enumerator since 6.10, before that __GFP_BITS_SHIFT.
        let shift = self.enumerator("___GFP_LAST_BIT").unwrap_or_else(|| {
            let lockdep = self.field("lockdep_map", "key").is_ok();
            27 + u32::from(lockdep)
        });
        0b11 << shift
    }

    /// A value of an enumeration of vmlinux, whatever the enumeration is called.
    fn enumerator(&self, name: &str) -> Option<u32> {
        let types = (1..).map_while(|id| self.vmlinux.resolve_type_by_id(id).ok());
        let mut enumerations = types.filter_map(|found| match found {
            Type::Enum(found) => Some(found),
            _ => None,
        });
        enumerations.find_map(|found| {
            let named = |member: &&btf_rs::EnumMember| {
                let own = self.vmlinux.resolve_name(*member);
                own.is_ok_and(|own| own == name)
            };
            Some(found.members.iter().find(named)?.val())
        })
    }

    fn structure(&self, name: &str) -> Result<(&Btf, btf_rs::Struct), TypesError> {
        for btf in std::iter::once(&self.vmlinux).chain(self.modules.values()) {
            for found in btf.resolve_types_by_name(name).unwrap_or_default() {
                if let Type::Struct(found) = found
                    && !found.members.is_empty()
                {
                    return Ok((btf, found));
                }
            }
        }
        Err(TypesError::Missing {
            what: format!("struct {name}"),
        })
    }
}

/// Looks through typedefs and qualifiers.
fn strip(btf: &Btf, mut found: Type) -> Option<Type> {
    loop {
        match &found {
            Type::Typedef(inner) => found = btf.resolve_chained_type(inner).ok()?,
            Type::Volatile(inner) => found = btf.resolve_chained_type(inner).ok()?,
            Type::Const(inner) => found = btf.resolve_chained_type(inner).ok()?,
            Type::Restrict(inner) => found = btf.resolve_chained_type(inner).ok()?,
            Type::TypeTag(inner) => found = btf.resolve_chained_type(inner).ok()?,
            _ => return Some(found),
        }
    }
}

fn size_of_type(btf: &Btf, found: Type) -> Option<u32> {
    match strip(btf, found)? {
        Type::Int(inner) => Some(inner.size() as u32),
        Type::Ptr(_) => Some(8),
        Type::Struct(inner) | Type::Union(inner) => Some(inner.size() as u32),
        Type::Enum(inner) => Some(inner.size() as u32),
        Type::Enum64(inner) => Some(inner.size() as u32),
        _ => None,
    }
}

/// Byte offset and type of member `name`, looking into anonymous structs and unions.
fn member(btf: &Btf, structure: &btf_rs::Struct, name: &str) -> Option<(u32, Type)> {
    for member in &structure.members {
        let offset = member.bit_offset() / 8;
        let found = btf.resolve_type_by_id(member.get_type_id()?).ok()?;
        match btf.resolve_name(member) {
            Ok(own) if own == name => return Some((offset, found)),
            Ok(own) if !own.is_empty() => {}
            _ => {
                if let Some(Type::Struct(inner) | Type::Union(inner)) = strip(btf, found)
                    && let Some((inside, found)) = self::member(btf, &inner, name)
                {
                    return Some((offset + inside, found));
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets that every kernel so far agrees on (include/linux/fs.h, mm_types.h).
    #[test]
    fn reads_the_running_kernel() {
        let types = match KernelTypes::load(&[]) {
            Ok(types) => types,
            Err(TypesError::NoBtf { path }) => panic!("this test needs a kernel with BTF: {path}"),
            Err(error) => panic!("{error}"),
        };
        assert_eq!(
            types.field("address_space", "host").unwrap(),
            Field { offset: 0, size: 8 }
        );
        assert_eq!(
            types
                .field("address_space", "invalidate_lock")
                .unwrap()
                .offset,
            24
        );
        let data = types.field("inode", "i_data").unwrap().offset;
        assert_eq!(
            types
                .field("inode", "i_data.invalidate_lock")
                .unwrap()
                .offset,
            data + 24
        );
        assert_eq!(types.field("vm_fault", "vma").unwrap().offset, 0);
        assert_eq!(types.field("vm_fault", "flags").unwrap().size, 4);
        assert!(types.field("dentry", "d_name.name").is_ok());
        assert!(types.function("vfs_fallocate").is_some());
        assert!(matches!(
            types.field("inode", "no_such"),
            Err(TypesError::Missing { .. })
        ));
        assert!(matches!(
            types.field("no_such", "x"),
            Err(TypesError::Missing { .. })
        ));
    }
}
