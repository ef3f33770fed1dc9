//! Variables in values: `${key}`, `${env.NAME}`, `${env.NAME:-default}`, `${user.name}`. Pure.
//!
//! Word for word the behaviour of Hadoop's `Configuration.substituteVars`: innermost variable first,
//! twenty rounds, an unbound one ends the work and stays as it stands.

use super::Environment;

/// Hadoop's limit on rounds of substitution in one value.
const MAX_ROUNDS: usize = 20;

/// More than [`MAX_ROUNDS`] variables in one value; most often two that name each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooDeep;

/// `text` with its variables replaced; `raw` gives the unresolved value of a key.
pub(super) fn substitute(
    text: &str,
    environment: &Environment,
    raw: impl Fn(&str) -> Option<String>,
) -> Result<String, TooDeep> {
    let mut value = text.to_owned();
    for _ in 0..MAX_ROUNDS {
        let Some((before, name, after)) = innermost_variable(&value) else {
            return Ok(value);
        };
        let Some(found) = bound(name, environment).or_else(|| raw(name)) else {
            return Ok(value);
        };
        if found.contains(&format!("${{{name}}}")) {
            // A value that names itself is left alone as a whole.
            return Ok(text.to_owned());
        }
        value = format!("{before}{found}{after}");
    }
    Err(TooDeep)
}

/// The value of an environment variable or a Java system property.
fn bound(name: &str, environment: &Environment) -> Option<String> {
    let Some(spec) = name.strip_prefix("env.").filter(|spec| !spec.is_empty()) else {
        return environment.property(name).map(str::to_owned);
    };
    let Some(dash) = spec.find('-') else {
        return environment.var(spec).map(str::to_owned);
    };
    let (name, default) = (spec.get(..dash)?, spec.get(dash + 1..)?);
    match name.strip_suffix(':') {
        Some(name) => {
            let set = environment.var(name).filter(|value| !value.is_empty());
            Some(set.unwrap_or(default).to_owned())
        }
        None => Some(environment.var(name).unwrap_or(default).to_owned()),
    }
}

/// Splits around the first `${name}` that has no other variable inside.
///
/// A name has at least one character and none of `$`, `}` or a blank; Hadoop skips over what looks
/// like the start of one and is none.
fn innermost_variable(text: &str) -> Option<(&str, &str, &str)> {
    let mut from = 0;
    while let Some(open) = text.get(from..)?.find("${").map(|at| from + at) {
        let start = open + 2;
        let rest = text.get(start..)?;
        let end = rest.find([' ', '$', '}'])?;
        if end > 0 && rest.get(end..)?.starts_with('}') {
            let name = rest.get(..end)?;
            return Some((text.get(..open)?, name, text.get(start + end + 1..)?));
        }
        // What follows may start with the `$` that ended this one.
        from = start + end;
        if !rest.get(end..)?.starts_with('$') {
            from += 1;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment() -> Environment {
        Environment::new(
            [("HOME", "/home/ann"), ("EMPTY", "")],
            [("user.name", "ann"), ("java.io.tmpdir", "/tmp")],
        )
    }

    fn resolve(text: &str) -> Result<String, TooDeep> {
        let raw = |key: &str| {
            Some(match key {
                "one" => "1".to_owned(),
                "which" => "one".to_owned(),
                "self" => "${self}x".to_owned(),
                "loop.a" => "x${loop.b}".to_owned(),
                "loop.b" => "${loop.a}".to_owned(),
                "user.name" => "from the file".to_owned(),
                "brace" => "a}b".to_owned(),
                _ => return None,
            })
        };
        substitute(text, &environment(), raw)
    }

    #[test]
    fn values_resolve_as_in_hadoop() {
        for (text, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("${one}", "1"),
            ("a${one}b${one}c", "a1b1c"),
            ("${${which}}", "1"),
            ("${x.${which}}", "${x.one}"),
            ("${user.name}", "ann"),
            ("${env.HOME}/x", "/home/ann/x"),
            ("${env.NOPE}${one}", "${env.NOPE}${one}"),
            ("${one}${env.NOPE}", "1${env.NOPE}"),
            ("${env.NOPE:-d}", "d"),
            ("${env.EMPTY:-d}", "d"),
            ("${env.EMPTY}", ""),
            ("${env.NOPE-d}", "d"),
            ("${env.EMPTY-d}", ""),
            ("${env.HOME:-d}", "/home/ann"),
            ("${env.NOPE:-${one}}", "1"),
            ("${env.NOPE:-a-b}", "a-b"),
            ("${env.NOPE:-}", ""),
            ("${env.}", "${env.}"),
            ("${ one } ${one}", "${ one } 1"),
            ("${}${one}", "${}1"),
            ("$${one}", "$1"),
            ("${one", "${one"),
            ("$one {one}", "$one {one}"),
            ("${self}", "${self}"),
            ("${brace}${one}", "a}b1"),
            ("ä${one}ö", "ä1ö"),
        ] {
            assert_eq!(resolve(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn twenty_rounds_are_the_limit() {
        assert_eq!(resolve("${loop.a}"), Err(TooDeep));
        assert_eq!(resolve(&"${one}".repeat(19)).unwrap(), "1".repeat(19));
        assert_eq!(resolve(&"${one}".repeat(21)), Err(TooDeep));
    }

    proptest::proptest! {
        #[test]
        fn any_text_ends_without_a_panic(text in "[${}a. :-]{0,40}") {
            let _ = resolve(&text);
        }
    }
}
