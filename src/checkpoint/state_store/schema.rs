//! `_metadata/schema` of a state store: a version, then the schemas of key and value as JSON. All strings
//! are those of Java's `DataOutput.writeUTF`: a length of two bytes, then the bytes.

/// Why a restart cannot read the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SchemaDamage {
    /// It ends in the middle.
    #[error("it ends before its schemas do")]
    Cut,
    /// The schema of the key or of the value is none.
    #[error("the schema in it is not JSON")]
    NotJson,
}

/// Looks whether the file has both schemas. One of a version that is not known here passes.
///
/// # Errors
/// [`SchemaDamage`].
pub fn check_schema(content: &[u8]) -> Result<(), SchemaDamage> {
    let (version, mut rest) = text(content)?;
    for _key_and_value in 0..2 {
        // A text longer than 65,535 bytes has several pieces since version 2.
        let pieces = match version {
            b"v1" => 1,
            b"v2" => {
                let (count, behind) = rest.split_first_chunk().ok_or(SchemaDamage::Cut)?;
                rest = behind;
                u32::from_be_bytes(*count)
            }
            _ => return Ok(()),
        };
        let mut json = Vec::new();
        for _ in 0..pieces {
            let (piece, behind) = text(rest)?;
            json.extend_from_slice(piece);
            rest = behind;
        }
        if serde_json::from_slice::<serde::de::IgnoredAny>(&json).is_err() {
            return Err(SchemaDamage::NotJson);
        }
    }
    Ok(())
}

fn text(content: &[u8]) -> Result<(&[u8], &[u8]), SchemaDamage> {
    let (len, rest) = content.split_first_chunk().ok_or(SchemaDamage::Cut)?;
    let len = usize::from(u16::from_be_bytes(*len));
    rest.split_at_checked(len).ok_or(SchemaDamage::Cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utf(text: &str) -> Vec<u8> {
        let len = u16::try_from(text.len()).unwrap();
        [&len.to_be_bytes()[..], text.as_bytes()].concat()
    }

    fn in_pieces(pieces: &[&str]) -> Vec<u8> {
        let count = u32::try_from(pieces.len()).unwrap().to_be_bytes();
        let texts: Vec<u8> = pieces.iter().flat_map(|piece| utf(piece)).collect();
        [&count[..], &texts].concat()
    }

    #[test]
    fn both_schemas_in_either_version() {
        let one = [utf("v1"), utf("{\"a\":1}"), utf("{}")].concat();
        let two = [utf("v2"), in_pieces(&["{\"a\"", ":1}"]), in_pieces(&["{}"])].concat();
        for whole in [one, two] {
            assert_eq!(check_schema(&whole), Ok(()));
            for len in 0..whole.len() {
                let damage = check_schema(&whole[..len]).unwrap_err();
                assert_eq!(damage, SchemaDamage::Cut, "{len}");
            }
        }
        assert_eq!(check_schema(&[utf("v9"), vec![1]].concat()), Ok(()));
        let odd = [utf("v2"), in_pieces(&["{"]), in_pieces(&["{}"])].concat();
        assert_eq!(check_schema(&odd), Err(SchemaDamage::NotJson));
        // A count that no file has room for allocates nothing.
        let huge = [utf("v2"), u32::MAX.to_be_bytes().to_vec()].concat();
        assert_eq!(check_schema(&huge), Err(SchemaDamage::Cut));
    }
}
