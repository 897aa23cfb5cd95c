//! Masking, RFC 6455 §5.3: octet i of the payload XOR octet i mod 4 of the key.

/// How much is XORed at a step: two SSE2 registers, one of AVX2. Measured in `benches/codec.rs`.
const STEP: usize = 32;

/// Masks or unmasks `bytes`, whose first octet meets the first octet of `mask`.
///
/// The loop over arrays of a fixed size is what the compiler turns into vector instructions;
/// loads are unaligned, so it does not matter where in the read buffer the payload starts.
#[inline]
pub fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let wide: [u8; STEP] = std::array::from_fn(|i| mask[i % 4]);
    let (steps, rest) = bytes.as_chunks_mut::<STEP>();
    for step in steps {
        xor(step, &wide);
    }
    // STEP is a multiple of the key's length, so the remainder starts with the key's first octet.
    let (words, rest) = rest.as_chunks_mut::<4>();
    for word in words {
        xor(word, &mask);
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

/// XORs `key` into `bytes`.
#[inline]
fn xor<const N: usize>(bytes: &mut [u8; N], key: &[u8; N]) {
    for (byte, key) in bytes.iter_mut().zip(key) {
        *byte ^= key;
    }
}

/// The key as it meets the octet `octets` further on.
#[inline]
pub(super) fn advance(mut mask: [u8; 4], octets: usize) -> [u8; 4] {
    mask.rotate_left(octets % 4);
    mask
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unmasking_equals_the_definition_for_every_length_and_alignment() {
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        let source: Vec<u8> = (0..200u8).map(|i| i.wrapping_mul(31)).collect();
        for start in 0..33 {
            for end in start..source.len() {
                let mut bytes = source.clone();
                unmask(&mut bytes[start..end], mask);
                for (i, (got, was)) in bytes.iter().zip(&source).enumerate() {
                    let inside = (start..end).contains(&i);
                    let key = if inside { mask[(i - start) % 4] } else { 0 };
                    assert_eq!(*got, was ^ key, "octet {i} of {start}..{end}");
                }
            }
        }
    }

    #[test]
    fn a_key_goes_on_where_the_last_chunk_stopped() {
        let mask = [1, 2, 3, 4];
        let mut whole = vec![0; 40];
        unmask(&mut whole, mask);
        for cut in 0..40 {
            let mut parts = vec![0; 40];
            let (head, tail) = parts.split_at_mut(cut);
            unmask(head, mask);
            unmask(tail, advance(mask, cut));
            assert_eq!(parts, whole, "cut at {cut}");
        }
    }
}
