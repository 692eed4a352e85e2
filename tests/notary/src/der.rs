//! Writes DER (X.690), as much as an RFC 3161 token and an RFC 6962 list need.

/// Tag, length and what is inside.
pub(crate) fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let content = parts.concat();
    let mut out = vec![tag];
    match content.len() {
        short @ ..=0x7f => out.push(short as u8),
        long => {
            let bytes: Vec<u8> = long.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            out.push(0x80 | bytes.len() as u8);
            out.extend(bytes);
        }
    }
    out.extend(content);
    out
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(0x30, parts)
}

/// A set has its members in the order of their encodings.
pub(crate) fn set(members: &[&[u8]]) -> Vec<u8> {
    let mut members = members.to_vec();
    members.sort_unstable();
    tlv(0x31, &members)
}

pub(crate) fn octets(bytes: &[u8]) -> Vec<u8> {
    tlv(0x04, &[bytes])
}

/// A small number that is not negative.
pub(crate) fn number(value: u8) -> Vec<u8> {
    assert!(value < 0x80, "would be negative");
    tlv(0x02, &[&[value]])
}

pub(crate) fn oid(parts: &[u64]) -> Vec<u8> {
    let mut content = vec![(parts[0] * 40 + parts[1]) as u8];
    for part in &parts[2..] {
        let mut digits = vec![(part & 0x7f) as u8];
        let mut rest = part >> 7;
        while rest > 0 {
            digits.push(0x80 | (rest & 0x7f) as u8);
            rest >>= 7;
        }
        content.extend(digits.into_iter().rev());
    }
    tlv(0x06, &[&content])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_encodings() {
        // rsadsi PKCS#7: 1.2.840.113549.1.7.2
        assert_eq!(oid(&[1, 2, 840, 113_549, 1, 7, 2]), [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2]);
        assert_eq!(octets(&[0; 200])[..3], [4, 0x81, 200]);
        assert_eq!(set(&[&[2, 1, 9], &[2, 1, 3]]), [0x31, 6, 2, 1, 3, 2, 1, 9]);
    }
}
