//! Whether packing pays.

/// Decides whether a run is sent packed.
///
/// Measured (`benches/carry.rs`, a busy machine of two cores): packing costs 0.4 to 1.3 nanoseconds a byte, unpacking 0.1
/// to 0.4; a byte that is sent costs 8 on a network of 1 Gbit/s, and 5 to 8 through ssh on loopback there. So
/// packing pays where a run loses an eighth of its bytes. Noise is given up after 0.2 nanoseconds a byte, and then tried
/// at a run in thirty-two.
#[derive(Debug, Default)]
pub struct Packer {
    block: Vec<u8>,
    /// How many runs are sent as they are before the next one is tried.
    skip: u32,
    /// How many were tried in vain, one after another.
    vain: u32,
}

/// Fewer bytes are sent as they are.
const SMALL: usize = 512;
/// Most runs that are passed over, as a power of two.
const PASS: u32 = 5;

/// The packed form of a run must be this part of it or less: seven eighths.
pub fn pays(packed: usize, plain: usize) -> bool {
    packed <= plain - plain / 8
}

impl Packer {
    /// The packed form, where it pays.
    pub fn pack(&mut self, run: &[u8]) -> Option<&[u8]> {
        if run.len() < SMALL {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.block.resize(lz4_flex::block::get_maximum_output_size(run.len()), 0);
        let length = lz4_flex::block::compress_into(run, &mut self.block).unwrap_or(run.len());
        if pays(length, run.len()) {
            self.vain = 0;
            self.block.get(..length)
        } else {
            self.vain = (self.vain + 1).min(PASS);
            self.skip = (1 << self.vain) - 1;
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_is_sent_as_it_is_and_found_out_seldom() {
        let mut state = 1_u64;
        let mut noise = vec![0; 1 << 16];
        for byte in &mut noise {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        let mut packer = Packer::default();
        let text = b"the same words again and again ".repeat(2000);
        assert!(packer.pack(&text).unwrap().len() < text.len() / 10);
        for _ in 0..1000 {
            assert_eq!(packer.pack(&noise), None);
        }
        let tries = (0..64).filter(|_| packer.pack(&text).is_some()).count();
        assert!(tries >= 32, "{tries}");
        assert_eq!(packer.pack(b"short"), None);
        let packed = packer.pack(&text).unwrap();
        let mut back = vec![0; text.len()];
        assert_eq!(lz4_flex::block::decompress_into(packed, &mut back).unwrap(), text.len());
        assert_eq!(back, text);
    }
}
