//! From the modes in which a processor may enter the guest to those of compiled code.

/// Assembler text that makes a processor, in either byte order and in 32-bit or 64-bit mode,
/// little-endian and 64-bit with floating point and vectors on, and sets the table of contents (r2 of
/// the ELF ABI, version 2). It uses r10, r11, SRR0 and SRR1, and the local labels
/// 2 and 3.
///
/// Its first word in the wrong byte order is `b .+8` in place of a `tdi` that never traps: it leads
/// into instructions that are stored in the other order: `bcl 20, 31, .+4`, `mflr r10`,
/// `addi r10, r10, 0x1c` (to label 2), `mtsrr0 r10`, `mfmsr r11`, `ori r11, r11, MSR_LE`, `mtsrr1 r11`
/// and `rfid`.
macro_rules! to_compiled_code {
    () => {
        "
        tdi 0, 0, 0x48
        b 2f
        .irp word, 0x429f0005, 0x7d4802a6, 0x394a001c, 0x7d5a03a6, 0x7d6000a6, 0x616b0001, \
            0x7d7b03a6, 0x4c000024
        .long ((\\word) >> 24 & 0xff) | ((\\word) >> 8 & 0xff00) | \
            ((\\word) << 8 & 0xff0000) | ((\\word) << 24 & 0xff000000)
        .endr
    2:
        li 11, 1 /* SF; VEC and VSX; FP, ME, RI and LE */
        sldi 11, 11, 63
        oris 11, 11, 0x0280
        ori 11, 11, 0x3003
        mtsrr1 11
        lis 10, 3f@ha
        addi 10, 10, 3f@l
        mtsrr0 10
        rfid
    3:
        lis 2, .TOC.@ha
        addi 2, 2, .TOC.@l
        "
    };
}

pub(crate) use to_compiled_code;
