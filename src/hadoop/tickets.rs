//! Kerberos files as bytes: which principals and tickets are in them. Pure; no Kerberos is spoken.

use super::wire::Reader;

/// What a `FILE:` ticket cache holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TicketCache {
    /// Whose tickets they are: `name@REALM`.
    pub(super) principal: String,
    /// When the ticket-granting ticket ends, seconds since the epoch; `None` if there is none.
    pub(super) tgt_ends_at: Option<i64>,
}

/// Reads a ticket cache of version 3 or 4 (all that MIT Kerberos and Heimdal write today).
pub(super) fn parse_cache(bytes: &[u8]) -> Option<TicketCache> {
    let mut reader = Reader::new(bytes);
    let version = reader.u16()?;
    match version {
        0x0504 => drop(reader.counted16()?),
        0x0503 => {}
        _ => return None,
    }
    let principal = cached_principal(&mut reader)?;
    let mut tgt_ends_at = None;
    while !reader.is_empty() {
        let (server, ends_at) = cached_ticket(&mut reader, version)?;
        if server.starts_with("krbtgt/") {
            tgt_ends_at = tgt_ends_at.max(Some(ends_at));
        }
    }
    Some(TicketCache {
        principal,
        tgt_ends_at,
    })
}

fn cached_principal(reader: &mut Reader<'_>) -> Option<String> {
    let _name_type = reader.u32()?;
    let count = reader.u32()?;
    let realm = text(reader.counted32()?);
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push(text(reader.counted32()?));
    }
    Some(format!("{}@{realm}", parts.join("/")))
}

fn cached_ticket(reader: &mut Reader<'_>, version: u16) -> Option<(String, i64)> {
    let _client = cached_principal(reader)?;
    let server = cached_principal(reader)?;
    let _key_type = reader.u16()?;
    if version == 0x0503 {
        let _key_type_again = reader.u16()?;
    }
    let _key = reader.counted32()?;
    let _times_before = reader.take(8)?;
    let ends_at = reader.u32()?;
    let _renew_skey_flags = reader.take(4 + 1 + 4)?;
    for _ in 0..2 {
        // Addresses, then authorization data.
        for _ in 0..reader.u32()? {
            let _kind = reader.u16()?;
            let _data = reader.counted32()?;
        }
    }
    let _ticket = reader.counted32()?;
    let _second_ticket = reader.counted32()?;
    Some((server, ends_at.into()))
}

/// The principals in a keytab, each once, in order; `None` if it is no keytab.
pub(super) fn parse_keytab(bytes: &[u8]) -> Option<Vec<String>> {
    let mut reader = Reader::new(bytes);
    if reader.u16()? != 0x0502 {
        return None;
    }
    let mut principals: Vec<String> = Vec::new();
    while !reader.is_empty() {
        let length = reader.i32()?;
        let entry = reader.take(usize::try_from(length.unsigned_abs()).ok()?)?;
        // A negative length is a hole where a key was removed.
        if length > 0 {
            let principal = keytab_principal(&mut Reader::new(entry))?;
            if !principals.contains(&principal) {
                principals.push(principal);
            }
        }
    }
    Some(principals)
}

fn keytab_principal(reader: &mut Reader<'_>) -> Option<String> {
    let count = reader.u16()?;
    let realm = text(reader.counted16()?);
    let mut parts = Vec::new();
    for _ in 0..count {
        parts.push(text(reader.counted16()?));
    }
    Some(format!("{}@{realm}", parts.join("/")))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn put(out: &mut Vec<u8>, bytes: &[u8]) {
        out.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
        out.extend(bytes);
    }

    fn put_principal(out: &mut Vec<u8>, parts: &[&str]) {
        out.extend(1_u32.to_be_bytes());
        out.extend(u32::try_from(parts.len()).unwrap().to_be_bytes());
        put(out, b"EXAMPLE.COM");
        for part in parts {
            put(out, part.as_bytes());
        }
    }

    /// A version 4 cache of `ann` with a ticket for each server.
    pub(in super::super) fn cache(servers: &[(&[&str], u32)]) -> Vec<u8> {
        let mut out = vec![5, 4, 0, 4, 1, 2, 3, 4];
        put_principal(&mut out, &["ann"]);
        for (server, ends_at) in servers {
            put_principal(&mut out, &["ann"]);
            put_principal(&mut out, server);
            out.extend([0, 18]);
            put(&mut out, &[7; 32]);
            out.extend([0; 8]);
            out.extend(ends_at.to_be_bytes());
            out.extend([0; 9]);
            out.extend([0, 0, 0, 1, 0, 2]);
            put(&mut out, &[127, 0, 0, 1]);
            out.extend([0; 4]);
            put(&mut out, b"ticket");
            put(&mut out, b"");
        }
        out
    }

    /// A keytab with `ann@EXAMPLE.COM` twice, a hole, and `nn/host@EXAMPLE.COM`.
    pub(in super::super) fn keytab() -> Vec<u8> {
        let entry = |parts: &[&str]| {
            let mut out = u16::try_from(parts.len()).unwrap().to_be_bytes().to_vec();
            for text in [&["EXAMPLE.COM"][..], parts].concat() {
                out.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
                out.extend(text.as_bytes());
            }
            out.extend([0; 20]);
            out
        };
        let mut out = vec![5, 2];
        for parts in [&["ann"][..], &["ann"], &["nn", "host"]] {
            put(&mut out, &entry(parts));
            out.extend((-3_i32).to_be_bytes());
            out.extend([9; 3]);
        }
        out
    }

    #[test]
    fn the_ticket_that_counts_is_the_granting_one() {
        let bytes = cache(&[
            (&["nn", "host"], 900),
            (&["krbtgt", "EXAMPLE.COM"], 500),
            (&["krb5_ccache_conf_data", "x"], 0),
        ]);
        let found = parse_cache(&bytes).unwrap();
        assert_eq!(found.principal, "ann@EXAMPLE.COM");
        assert_eq!(found.tgt_ends_at, Some(500));
        assert_eq!(parse_cache(&cache(&[])).unwrap().tgt_ends_at, None);
        for cut in 0..bytes.len() {
            let _ = parse_cache(&bytes[..cut]);
        }
        assert_eq!(parse_cache(&bytes[..bytes.len() - 1]), None);
        assert_eq!(parse_cache(b"\x05\x01"), None);
    }

    #[test]
    fn keytab_principals() {
        assert_eq!(
            parse_keytab(&keytab()).unwrap(),
            ["ann@EXAMPLE.COM", "nn/host@EXAMPLE.COM"]
        );
        assert_eq!(parse_keytab(&[5, 2]).unwrap(), Vec::<String>::new());
        assert_eq!(parse_keytab(b"not a keytab"), None);
        let bytes = keytab();
        assert_eq!(parse_keytab(&bytes[..bytes.len() - 2]), None);
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_end_without_a_panic(tail: Vec<u8>) {
            let _ = parse_cache(&[&[5, 4][..], &tail].concat());
            let _ = parse_keytab(&[&[5, 2][..], &tail].concat());
        }
    }
}
