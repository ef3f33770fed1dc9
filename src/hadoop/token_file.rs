//! A Hadoop token file (`HADOOP_TOKEN_FILE_LOCATION`) as bytes. Pure; passwords are not kept.

use super::wire::Reader;

/// A delegation token, without its password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    /// `HDFS_DELEGATION_TOKEN`, ...
    pub(super) kind: String,
    /// Whom it is for: `ha-hdfs:<nameservice>` or `<address>:<port>`.
    pub(super) service: String,
    /// Whose it is; empty if its identifier is of an unknown form.
    pub(super) owner: String,
    /// When it can no longer be renewed, milliseconds since the epoch; `None` if it does not say.
    pub(super) max_ms: Option<i64>,
}

/// The kind of token that a NameNode takes.
pub(super) const HDFS_KIND: &str = "HDFS_DELEGATION_TOKEN";

/// The tokens of a token file; `None` if it is none.
pub(super) fn parse(bytes: &[u8]) -> Option<Vec<Token>> {
    let mut reader = Reader::new(bytes);
    if reader.take(4)? != b"HDTS" {
        return None;
    }
    match reader.u8()? {
        0 => writable(&mut reader),
        1 => protobuf(reader),
        _ => None,
    }
}

fn writable(reader: &mut Reader<'_>) -> Option<Vec<Token>> {
    let count = reader.vlong()?;
    let mut tokens = Vec::new();
    for _ in 0..count {
        let _alias = reader.vcounted()?;
        let identifier = reader.vcounted()?;
        let _password = reader.vcounted()?;
        let kind = text(reader.vcounted()?);
        let service = text(reader.vcounted()?);
        tokens.push(token(identifier, kind, service));
    }
    Some(tokens)
}

fn protobuf(mut reader: Reader<'_>) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    for field in reader.message()?.fields() {
        let (1, entry) = field? else { continue };
        for field in Reader::new(entry.bytes()).fields() {
            let (2, proto) = field? else { continue };
            let (mut identifier, mut kind, mut service) = (&[][..], String::new(), String::new());
            for field in Reader::new(proto.bytes()).fields() {
                match field? {
                    (1, value) => identifier = value.bytes(),
                    (3, value) => kind = value.text(),
                    (4, value) => service = value.text(),
                    _ => {}
                }
            }
            tokens.push(token(identifier, kind, service));
        }
    }
    Some(tokens)
}

fn token(identifier: &[u8], kind: String, service: String) -> Token {
    let (owner, max_ms) = dates(identifier).unzip();
    Token {
        kind,
        service,
        owner: owner.unwrap_or_default(),
        max_ms,
    }
}

fn dates(identifier: &[u8]) -> Option<(String, i64)> {
    let mut reader = Reader::new(identifier);
    if reader.u8()? != 0 {
        return None;
    }
    let owner = text(reader.vcounted()?);
    let _renewer = reader.vcounted()?;
    let _real_user = reader.vcounted()?;
    let _issued = reader.vlong()?;
    Some((owner, reader.vlong()?))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A token file of the older form with one token that ends at `max_ms`.
    pub(in super::super) fn file(service: &str, max_ms: i64) -> Vec<u8> {
        let counted = |bytes: &[u8]| [&[u8::try_from(bytes.len()).unwrap()], bytes].concat();
        let long = |value: i64| [&[0x88][..], &value.to_be_bytes()].concat();
        let identifier = [
            vec![0],
            counted(b"ann@EXAMPLE.COM"),
            counted(b""),
            counted(b""),
            long(1),
            long(max_ms),
            vec![1, 2],
        ]
        .concat();
        [
            b"HDTS\x00\x01".to_vec(),
            counted(b"alias"),
            counted(&identifier),
            counted(b"password"),
            counted(HDFS_KIND.as_bytes()),
            counted(service.as_bytes()),
            vec![0],
        ]
        .concat()
    }

    #[test]
    fn both_forms_are_read() {
        let old = parse(&file("ha-hdfs:ns", 1_690_672_432_660)).unwrap();
        let expected = Token {
            kind: HDFS_KIND.to_owned(),
            service: "ha-hdfs:ns".to_owned(),
            owner: "ann@EXAMPLE.COM".to_owned(),
            max_ms: Some(1_690_672_432_660),
        };
        assert_eq!(old, std::slice::from_ref(&expected));

        let field = |number: u8, bytes: &[u8]| {
            [
                &[number << 3 | 2, u8::try_from(bytes.len()).unwrap()],
                bytes,
            ]
            .concat()
        };
        let identifier = b"\x00\x0fann@EXAMPLE.COM\x00\x00\x01\x8a\x01\x89\xa3\xee\x06\x14";
        let proto = [
            field(1, identifier),
            field(2, b"pw"),
            field(3, HDFS_KIND.as_bytes()),
            field(4, b"h:1"),
        ]
        .concat();
        let entry = [field(1, b"alias"), field(2, &proto)].concat();
        let message = field(1, &entry);
        let bytes = [
            b"HDTS\x01",
            &[u8::try_from(message.len()).unwrap()][..],
            &message,
        ]
        .concat();
        let new = parse(&bytes).unwrap();
        assert_eq!(new[0].service, "h:1");
        assert_eq!(new[0].max_ms, Some(1_690_672_432_660));
    }

    #[test]
    fn damage_is_told_from_an_empty_file() {
        assert_eq!(parse(b"HDTS\x00\x00"), Some(vec![]));
        assert_eq!(parse(b"HDTS\x02"), None);
        assert_eq!(parse(b"JUNK"), None);
        let bytes = file("s", 1);
        for cut in 0..bytes.len() - 1 {
            assert_eq!(parse(&bytes[..cut]), None, "{cut}");
        }
    }
}
