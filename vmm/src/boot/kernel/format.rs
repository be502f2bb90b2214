//! What a file is, by its first bytes.

use std::fmt;

use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_386, EM_AARCH64, EM_ARM, EM_PPC, EM_PPC64, EM_RISCV,
    EM_S390, EM_X86_64, ET_CORE, ET_REL,
};

/// Where the header of an ELF file has its class, its byte order, its kind and its machine (gabi,
/// "ELF Header").
const ELF_CLASS: usize = 4;
const ELF_DATA: usize = 5;
const ELF_TYPE: usize = 16;
const ELF_MACHINE: usize = 18;

/// How many of a file's first bytes tell what it is.
pub(super) const TELLING_BYTES: usize = 1024;

/// What to give as a kernel.
const GIVE_A_KERNEL: &str =
    "give the vmlinux of a ppc64le kernel, as it is or compressed by gzip, xz or zstd";

/// How a kernel is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// RFC 1952.
    Gzip,
    /// The .xz file format (tukaani.org/xz/xz-file-format.txt).
    Xz,
    /// RFC 8878.
    Zstd,
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip => "gzip",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
        })
    }
}

/// What a file can be that is given as a kernel.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// An ELF file for ppc64le that may be a kernel.
    Elf,
    /// A compressed file.
    Packed(Packing),
    /// Something else.
    Other(Unusable),
}

/// Why a file cannot be a guest's kernel: what it is, and what to give instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    is: String,
    instead: &'static str,
}

impl Unusable {
    /// What it is, as in "the kernel is …".
    pub(super) fn new(is: impl Into<String>) -> Self {
        Self {
            is: is.into(),
            instead: GIVE_A_KERNEL,
        }
    }

    /// Compressed, and then compressed again.
    pub(super) fn packed_twice(first: Packing, then: Packing) -> Self {
        Self {
            is: format!("compressed twice, by {first} and then by {then}"),
            instead: "unpack it once",
        }
    }

    /// Something that is recognised once it has been unpacked.
    pub(super) fn packed_by(self, packing: Packing) -> Self {
        Self {
            is: format!("{} (compressed by {packing})", self.is),
            ..self
        }
    }
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.is, self.instead)
    }
}

/// Bytes at a place that tell what a file is.
struct Signature {
    offset: usize,
    bytes: &'static [u8],
    is: &'static str,
    instead: &'static str,
}

const fn signature(offset: usize, bytes: &'static [u8], is: &'static str) -> Signature {
    Signature {
        offset,
        bytes,
        is,
        instead: GIVE_A_KERNEL,
    }
}

const fn archive(bytes: &'static [u8]) -> Signature {
    Signature {
        offset: 0,
        bytes,
        is: "a cpio archive, as initial RAM disks are",
        instead: "give it as the initial RAM disk, and the vmlinux of a ppc64le kernel as the kernel",
    }
}

const fn other_packing(bytes: &'static [u8], is: &'static str) -> Signature {
    Signature {
        offset: 0,
        bytes,
        is,
        instead: "unpack it; only gzip, xz and zstd are unpacked at the start",
    }
}

const fn package(offset: usize, bytes: &'static [u8], is: &'static str) -> Signature {
    Signature {
        offset,
        bytes,
        is,
        instead: "unpack it, and give the vmlinux that is in it",
    }
}

const fn disk(bytes: &'static [u8], is: &'static str) -> Signature {
    Signature {
        offset: 0,
        bytes,
        is,
        instead: "copy the kernel out of it, and give that",
    }
}

/// From the most to the least telling: what stands first counts.
const SIGNATURES: &[Signature] = &[
    // Documentation/arch/x86/boot.rst: the header begins at 0x1f1, its magic is at 0x202. A kernel
    // that EFI can start begins with "MZ", too.
    signature(0x202, b"HdrS", "a kernel for x86 (bzImage)"),
    // Documentation/arch/arm64/booting.rst and arch/riscv/boot-image-header.rst.
    signature(0x38, b"ARM\x64", "a kernel for arm64 (Image)"),
    signature(0x38, b"RSC\x05", "a kernel for RISC-V (Image)"),
    signature(
        4,
        b"zimg",
        "a compressed kernel that EFI starts (vmlinuz.efi)",
    ),
    signature(0, b"MZ", "a program for EFI or Windows"),
    // U-Boot's include/image.h; a FIT image is a flattened device tree.
    signature(0, b"\x27\x05\x19\x56", "an image for U-Boot (uImage)"),
    signature(
        0,
        b"\xd0\x0d\xfe\xed",
        "a flattened device tree or an image for U-Boot (FIT)",
    ),
    // Documentation/driver-api/early-userspace/buffer-format.rst, and cpio(5) for the older ones.
    archive(b"070701"),
    archive(b"070702"),
    archive(b"070707"),
    archive(b"\xc7\x71"),
    archive(b"\x71\xc7"),
    other_packing(b"BZh", "compressed by bzip2"),
    other_packing(b"\x5d\0\0", "compressed by lzma"),
    other_packing(b"\x89LZO\0", "compressed by lzop"),
    other_packing(b"\x04\x22\x4d\x18", "compressed by lz4"),
    other_packing(b"\x02\x21\x4c\x18", "compressed by lz4"),
    package(0, b"!<arch>\n", "a Debian package or another archive of ar"),
    package(0, b"\xed\xab\xee\xdb", "an RPM package"),
    package(0, b"PK\x03\x04", "a zip archive"),
    package(257, b"ustar", "a tar archive"),
    disk(b"QFI\xfb", "a disk image (qcow2)"),
    disk(b"hsqs", "a file system (squashfs)"),
    disk(
        b"\xeb\x63\x90",
        "a disk image that begins with a boot loader",
    ),
    signature(0, b"#!", "a script"),
];

/// What a file is that begins with `head`, [`TELLING_BYTES`] of it or all.
pub(super) fn recognise(head: &[u8]) -> Format {
    if head.starts_with(&ELFMAG) {
        return recognise_elf(head);
    }
    if head.starts_with(&[0x1f, 0x8b]) {
        return Format::Packed(Packing::Gzip);
    }
    if head.starts_with(&[0xfd, b'7', b'z', b'X', b'Z', 0]) {
        return Format::Packed(Packing::Xz);
    }
    if head.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        return Format::Packed(Packing::Zstd);
    }
    let known = SIGNATURES.iter().find(|known| {
        head.get(known.offset..)
            .is_some_and(|rest| rest.starts_with(known.bytes))
    });
    Format::Other(match known {
        Some(known) => Unusable {
            is: known.is.to_owned(),
            instead: known.instead,
        },
        None if head.is_empty() => Unusable::new("empty"),
        None => Unusable::new(format!(
            "no ELF file (it begins with the bytes {})",
            head[..head.len().min(8)].escape_ascii()
        )),
    })
}

/// ELF files by what their first 20 bytes say: class, byte order, kind and machine.
fn recognise_elf(head: &[u8]) -> Format {
    let other = |is: &str| Format::Other(Unusable::new(is));
    let Some(&[class, data]) = head.get(ELF_CLASS..=ELF_DATA) else {
        return other("no ELF file that can be loaded: it has no header");
    };
    let half = |offset: usize| {
        let bytes: [u8; 2] = head.get(offset..)?.first_chunk().copied()?;
        Some(if data == ELFDATA2LSB {
            u16::from_le_bytes(bytes)
        } else {
            u16::from_be_bytes(bytes)
        })
    };
    let (Some(kind), Some(machine)) = (half(ELF_TYPE), half(ELF_MACHINE)) else {
        return other("no ELF file that can be loaded: it has no header");
    };
    match (machine, class, data) {
        (EM_PPC64, ELFCLASS64, ELFDATA2LSB) => match kind {
            ET_REL => other("an object file or a module for ppc64le, no kernel"),
            ET_CORE => other("a core file of ppc64le, no kernel"),
            _ => Format::Elf,
        },
        (EM_PPC64, ELFCLASS64, _) => {
            other("a big-endian ELF file for ppc64, and guests are little-endian")
        }
        (EM_PPC | EM_PPC64, ..) => Format::Other(Unusable {
            is: "a 32-bit ELF file for PowerPC, such as the boot wrapper of a zImage".to_owned(),
            instead: "give the vmlinux of a ppc64le kernel, which the wrapper is made from",
        }),
        _ => Format::Other(Unusable::new(format!(
            "for another machine ({}ELF machine {machine}), and a ppc64le kernel has {EM_PPC64}",
            name_of(machine)
        ))),
    }
}

/// The machines whose kernels one comes across, to be followed by the number.
fn name_of(machine: u16) -> &'static str {
    match machine {
        EM_386 => "x86, ",
        EM_X86_64 => "x86-64, ",
        EM_ARM => "arm, ",
        EM_AARCH64 => "arm64, ",
        EM_RISCV => "RISC-V, ",
        EM_S390 => "s390, ",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said_of(head: &[u8]) -> String {
        match recognise(head) {
            Format::Other(unusable) => unusable.to_string(),
            usable => panic!("usable: {usable:?}"),
        }
    }

    fn at(offset: usize, bytes: &[u8]) -> Vec<u8> {
        let mut head = vec![0; TELLING_BYTES];
        head[offset..offset + bytes.len()].copy_from_slice(bytes);
        head
    }

    /// The first 20 bytes of an ELF file.
    fn elf(class: u8, data: u8, kind: u16, machine: u16) -> Vec<u8> {
        let mut head = vec![0x7f, b'E', b'L', b'F', class, data, 1, 0];
        head.extend([0; 8]);
        for half in [kind, machine] {
            head.extend(match data {
                1 => half.to_le_bytes(),
                _ => half.to_be_bytes(),
            });
        }
        head
    }

    #[test]
    fn kernels_and_compressed_files_are_told_by_their_first_bytes() {
        for kind in [2, 3] {
            assert_eq!(recognise(&elf(2, 1, kind, 21)), Format::Elf);
        }
        for (head, packing) in [
            (&b"\x1f\x8b\x08\0"[..], Packing::Gzip),
            (b"\xfd7zXZ\0\0\x04", Packing::Xz),
            (b"\x28\xb5\x2f\xfd\x64", Packing::Zstd),
        ] {
            assert_eq!(recognise(head), Format::Packed(packing));
        }
    }

    #[test]
    fn an_elf_file_that_is_no_ppc64le_kernel_is_named_with_what_to_give_instead() {
        for (head, is) in [
            (
                elf(1, 2, 2, 20),
                "a 32-bit ELF file for PowerPC, such as the boot wrapper",
            ),
            (
                elf(1, 1, 2, 20),
                "a 32-bit ELF file for PowerPC, such as the boot wrapper",
            ),
            (elf(2, 2, 2, 21), "a big-endian ELF file for ppc64"),
            (elf(2, 1, 1, 21), "an object file or a module for ppc64le"),
            (elf(2, 1, 4, 21), "a core file of ppc64le"),
            (
                elf(2, 1, 2, 62),
                "for another machine (x86-64, ELF machine 62)",
            ),
            (
                elf(2, 1, 2, 183),
                "for another machine (arm64, ELF machine 183)",
            ),
            (
                elf(2, 2, 2, 22),
                "for another machine (s390, ELF machine 22)",
            ),
            (elf(2, 1, 2, 4711), "for another machine (ELF machine 4711)"),
        ] {
            let text = said_of(&head);
            assert!(text.starts_with(is), "{text}");
            assert!(
                text.contains("; give the vmlinux of a ppc64le kernel"),
                "{text}"
            );
        }
        for length in 4..20 {
            let text = said_of(&elf(2, 1, 2, 21)[..length]);
            assert!(text.contains("it has no header"), "{length}: {text}");
        }
    }

    #[test]
    fn what_is_often_mistaken_for_a_kernel_is_named() {
        for (head, is, instead) in [
            (at(0x202, b"HdrS"), "x86 (bzImage)", "give the vmlinux"),
            (at(0x38, b"ARMd"), "arm64 (Image)", "give the vmlinux"),
            (at(0x38, b"RSC\x05"), "RISC-V (Image)", "give the vmlinux"),
            (at(0, b"MZ\0\0zimg"), "vmlinuz.efi", "give the vmlinux"),
            (at(0, b"MZ"), "EFI or Windows", "give the vmlinux"),
            (at(0, b"\x27\x05\x19\x56"), "(uImage)", "give the vmlinux"),
            (at(0, b"\xd0\x0d\xfe\xed"), "(FIT)", "give the vmlinux"),
            (
                at(0, b"070701"),
                "a cpio archive",
                "as the initial RAM disk",
            ),
            (
                at(0, b"070702"),
                "a cpio archive",
                "as the initial RAM disk",
            ),
            (
                at(0, b"070707"),
                "a cpio archive",
                "as the initial RAM disk",
            ),
            (
                at(0, b"\xc7\x71"),
                "a cpio archive",
                "as the initial RAM disk",
            ),
            (at(0, b"BZh9"), "bzip2", "unpack it"),
            (at(0, b"\x5d\0\0\x80"), "lzma", "unpack it"),
            (at(0, b"\x02\x21\x4c\x18"), "lz4", "unpack it"),
            (at(0, b"!<arch>\n"), "a Debian package", "in it"),
            (at(0, b"\xed\xab\xee\xdb"), "an RPM package", "in it"),
            (at(257, b"ustar"), "a tar archive", "in it"),
            (at(0, b"QFI\xfb"), "(qcow2)", "copy the kernel out of it"),
            (at(0, b"#!/bin/sh"), "a script", "give the vmlinux"),
            (Vec::new(), "empty", "give the vmlinux"),
            (
                at(0, b""),
                "begins with the bytes \\x00\\x00",
                "gzip, xz or zstd",
            ),
        ] {
            let text = said_of(&head);
            assert!(text.contains(is) && text.contains(instead), "{is}: {text}");
        }
    }

    #[test]
    fn what_it_is_stays_when_it_was_compressed() {
        let Format::Other(archive) = recognise(b"070701") else {
            panic!("an archive is no kernel")
        };
        let text = archive.packed_by(Packing::Xz).to_string();
        assert!(
            text.starts_with(
                "a cpio archive, as initial RAM disks are (compressed by xz); give it"
            ),
            "{text}"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(head in proptest::collection::vec(0u8.., 0..600), elf: bool) {
            let mut head = head;
            if elf {
                head.splice(0..0, ELFMAG);
            }
            let _any = recognise(&head);
        }
    }
}
