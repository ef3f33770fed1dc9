//! Reading bytes that others wrote: big-endian fields, Hadoop's variable-length numbers, and just
//! enough of protobuf. Every length is checked against what is there; nothing here panics.

/// Bytes that are taken from the front.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// A reader over `bytes`.
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether nothing is left.
    pub(crate) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes.
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_be_bytes)
    }

    /// Bytes behind a 16-bit length.
    pub(crate) fn counted16(&mut self) -> Option<&'a [u8]> {
        let count = self.u16()?;
        self.take(count.into())
    }

    /// Bytes behind a 32-bit length.
    pub(crate) fn counted32(&mut self) -> Option<&'a [u8]> {
        let count = self.u32()?;
        self.take(usize::try_from(count).ok()?)
    }

    /// A number as `WritableUtils.writeVLong` writes it.
    pub(crate) fn vlong(&mut self) -> Option<i64> {
        let first = self.u8()?.cast_signed();
        if first >= -112 {
            return Some(first.into());
        }
        let is_negative = first < -120;
        let count = if is_negative {
            -120 - i16::from(first)
        } else {
            -112 - i16::from(first)
        };
        let bytes = self.take(usize::try_from(count).ok()?)?;
        let value = bytes
            .iter()
            .fold(0_i64, |value, byte| value << 8 | i64::from(*byte));
        Some(if is_negative { !value } else { value })
    }

    /// Bytes behind a length written by `writeVLong`.
    pub(crate) fn vcounted(&mut self) -> Option<&'a [u8]> {
        let count = self.vlong()?;
        self.take(usize::try_from(count).ok()?)
    }

    /// A base-128 number of protobuf.
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Bytes behind a protobuf length: a length-delimited message.
    pub(crate) fn message(&mut self) -> Option<Reader<'a>> {
        let count = self.varint()?;
        self.take(usize::try_from(count).ok()?).map(Reader)
    }

    /// The fields of a protobuf message, in order; `None` as an item where it is damaged.
    pub(crate) fn fields(self) -> Fields<'a> {
        Fields(Some(self))
    }
}

/// The value of a protobuf field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Value<'a> {
    /// A number or an enum.
    Number(u64),
    /// A string, bytes or a message.
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The bytes, if it has any.
    pub(crate) fn bytes(self) -> &'a [u8] {
        match self {
            Value::Bytes(bytes) => bytes,
            Value::Number(_) => &[],
        }
    }

    /// The bytes as text.
    pub(crate) fn text(self) -> String {
        String::from_utf8_lossy(self.bytes()).into_owned()
    }
}

/// Iterator over protobuf fields: number and value.
#[derive(Debug)]
pub(crate) struct Fields<'a>(Option<Reader<'a>>);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<(u64, Value<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut reader = self.0.take()?;
        if reader.is_empty() {
            return None;
        }
        let mut field = || {
            let tag = reader.varint()?;
            let value = match tag & 7 {
                0 => Value::Number(reader.varint()?),
                1 => Value::Bytes(reader.take(8)?),
                2 => Value::Bytes(reader.message()?.0),
                5 => Value::Bytes(reader.take(4)?),
                _ => return None,
            };
            Some((tag >> 3, value))
        };
        let field = field();
        if field.is_some() {
            self.0 = Some(reader);
        }
        Some(field)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hadoop_numbers() {
        // Written by WritableUtils.writeVLong.
        for (bytes, expected) in [
            (&[0_u8][..], 0),
            (&[0x7f], 127),
            (&[0x90], -112),
            (&[0x8f, 0x80], 128),
            (&[0x8e, 0x01, 0x00], 256),
            (&[0x87, 0x70], -113),
            (
                &[0x8a, 0x01, 0x89, 0x7f, 0xe1, 0x82, 0x14],
                1_690_067_632_660,
            ),
        ] {
            assert_eq!(Reader::new(bytes).vlong(), Some(expected), "{bytes:x?}");
        }
        assert_eq!(Reader::new(&[0x88]).vlong(), None);
    }

    #[test]
    fn protobuf_fields() {
        let bytes = [0x08, 0x96, 0x01, 0x12, 0x02, b'h', b'i', 0x1d, 1, 2, 3, 4];
        let fields: Vec<_> = Reader::new(&bytes).fields().collect();
        assert_eq!(
            fields,
            [
                Some((1, Value::Number(150))),
                Some((2, Value::Bytes(b"hi"))),
                Some((3, Value::Bytes(&[1, 2, 3, 4]))),
            ]
        );
        let cut: Vec<_> = Reader::new(&bytes[..5]).fields().collect();
        assert_eq!(cut, [Some((1, Value::Number(150))), None]);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(bytes: Vec<u8>) {
            let mut reader = Reader::new(&bytes);
            let _ = (reader.vlong(), reader.counted32(), reader.vcounted(), reader.message());
            let _ = Reader::new(&bytes).fields().count();
        }
    }
}
