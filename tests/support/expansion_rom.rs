//! Images of expansion ROMs (PCI Local Bus Specification 3.0, 6.3.1), which nothing runs.

/// Bytes of a block, in which images are measured.
const BLOCK_BYTES: usize = 512;
/// Where an image has its data structure.
const STRUCTURE: u8 = 0x1c;
/// Of no machine's code, and the last image.
const CODE_TYPE: u8 = 0xff;
const LAST: u8 = 0x80;

/// The image of a device of that vendor and kind, of `blocks` blocks of 512 bytes, filled with what `seed` says.
pub fn image((vendor, device): (u16, u16), blocks: u8, seed: u8) -> Vec<u8> {
    let bytes = BLOCK_BYTES * usize::from(blocks);
    let mut image: Vec<u8> = (0..bytes)
        .map(|at| seed.wrapping_add((at % 251).to_le_bytes()[0]))
        .collect();
    let mut put = |offset: u8, data: &[u8]| {
        let places = image.iter_mut().skip(offset.into());
        places.zip(data).for_each(|(to, from)| *to = *from);
    };
    put(0, &[0x55, 0xaa]);
    put(0x18, &[STRUCTURE, 0]);
    put(STRUCTURE, b"PCIR");
    put(STRUCTURE + 4, &vendor.to_le_bytes());
    put(STRUCTURE + 6, &device.to_le_bytes());
    // The structure's length, its revision, the class, and how many blocks there are.
    put(STRUCTURE + 8, &[0, 0, 0x18, 0, 0, 0, 0xff, 0]);
    put(STRUCTURE + 16, &[blocks, 0, 0, 0, CODE_TYPE, LAST, 0, 0]);
    image
}

/// What the lab's `rtl8139` has in its ROM.
pub fn of_rtl8139() -> Vec<u8> {
    image((0x10ec, 0x8139), 8, 3)
}
