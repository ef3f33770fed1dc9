//! `fs.permissions.umask-mode`: the client, not the NameNode, applies it.

use super::{HadoopConf, HadoopConfError};

const KEY: &str = "fs.permissions.umask-mode";

impl HadoopConf {
    /// The permission bits that new files and directories do not get.
    ///
    /// # Errors
    /// A value that is neither octal nor symbolic.
    pub fn umask(&self) -> Result<u32, HadoopConfError> {
        let Some(text) = self.get(KEY)? else {
            return Ok(0o022);
        };
        parse(&text).ok_or_else(|| {
            self.refuse(
                KEY,
                &text,
                "it is neither octal, as 022, nor symbolic, as u=rwx,g=rx,o=",
            )
        })
    }
}

/// Three or four octal digits, or what stays allowed in symbols: `u=rwx,g=rx,o=` is `027`.
fn parse(text: &str) -> Option<u32> {
    if text.bytes().all(|b| b.is_ascii_digit()) {
        let octal = u32::from_str_radix(text, 8).ok()?;
        return (3..=4).contains(&text.len()).then_some(octal & 0o1777);
    }
    let mut allowed = 0;
    for clause in text.split(',') {
        let at = clause.find(['=', '+', '-'])?;
        let (who, rest) = clause.split_at_checked(at)?;
        let (sign, what) = rest.split_at_checked(1)?;
        let mut bits = 0;
        for c in what.trim().chars() {
            bits |= match c {
                'r' => 4,
                'w' => 2,
                'x' => 1,
                _ => return None,
            };
        }
        // Hadoop starts from nothing, and only the last clause about each of user, group and others
        // counts.
        let bits = if sign == "-" { 0 } else { bits };
        for shift in shifts(who.trim())? {
            allowed = allowed & !(7 << shift) | bits << shift;
        }
    }
    Some(!allowed & 0o777)
}

fn shifts(who: &str) -> Option<Vec<u32>> {
    if who.is_empty() {
        return Some(vec![6, 3, 0]);
    }
    let mut shifts = Vec::new();
    for c in who.chars() {
        match c {
            'u' => shifts.push(6),
            'g' => shifts.push(3),
            'o' => shifts.push(0),
            'a' => shifts.extend([6, 3, 0]),
            _ => return None,
        }
    }
    Some(shifts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_and_symbolic() {
        for (text, expected) in [
            ("022", 0o022),
            ("000", 0),
            ("0077", 0o077),
            ("777", 0o777),
            ("u=rwx,g=rx,o=", 0o027),
            ("u=rwx,g=rwx,o=rx", 0o002),
            ("a=rx", 0o222),
            ("=rx", 0o222),
            ("u=rwx", 0o077),
            ("u+rwx, g+r", 0o037),
            ("ug=rwx,g-w,o=r", 0o073),
        ] {
            assert_eq!(parse(text), Some(expected), "{text}");
        }
        for bad in ["22", "9", "088", "u", "rwx", "u=rwz", "k=r", "02222", ""] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
