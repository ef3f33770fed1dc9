//! The text of a `*-site.xml` as a list of properties and includes. Pure: files are read elsewhere.
//!
//! Hadoop reads its files with a streaming parser and looks at local names only; the rules below are
//! its rules, checked against the real class by a test (`docs/design/hadoop-configuration.md`).

use roxmltree::{Document, Node, ParsingOptions, TextPos};

/// How deep elements may be nested; Hadoop's own files use four levels.
const MAX_DEPTH: usize = 64;

/// One item of a configuration file, in the order of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Item {
    /// A property with a name. Without a value it sets nothing, but it can still be final.
    Property {
        /// Name; trimmed if it came from an element, as it stands if it came from an attribute.
        name: String,
        /// Value as it stands: neither trimmed nor resolved. `None` if it is missing or empty.
        value: Option<String>,
        /// Whether later files may not change it.
        is_final: bool,
        /// Line of the property, from 1.
        line: u32,
    },
    /// An `xi:include`.
    Include {
        /// What to include.
        href: String,
        /// What stands in its `xi:fallback`; `None` if there is no such element.
        fallback: Option<Vec<Item>>,
        /// Line of the include, from 1.
        line: u32,
    },
}

/// Why a text is no Hadoop configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SiteError {
    /// Line, from 1.
    pub(super) line: u32,
    /// Column, from 1.
    pub(super) column: u32,
    /// The reason.
    pub(super) why: String,
}

/// Gives the text of an external entity by its system id; `None` if there is no such file.
pub(super) type EntityText<'e> = dyn Fn(&str) -> Result<Option<&'e str>, String> + 'e;

/// The items of a configuration text, in order.
pub(super) fn parse(text: &str, entity: &EntityText<'_>) -> Result<Vec<Item>, SiteError> {
    let by_system_id = |_public: Option<&str>, system: &str| entity(system);
    let options = ParsingOptions {
        allow_dtd: true,
        entity_resolver: Some(&by_system_id),
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(text, options).map_err(|error| {
        let TextPos { row, col } = error.pos();
        // The position is shown in front of the message; the parser repeats it within.
        let why = error
            .to_string()
            .replace(&format!(" at {}", error.pos()), "");
        let why = if matches!(error, roxmltree::Error::UnknownNamespace(..)) {
            format!("{why}; declare it, as in xmlns:xi=\"http://www.w3.org/2001/XInclude\"")
        } else {
            why
        };
        SiteError {
            line: row,
            column: col,
            why,
        }
    })?;
    let root = document.root_element();
    let mut items = Vec::new();
    match root.tag_name().name() {
        "configuration" | "property" => collect(root, 0, &mut items)?,
        other => {
            let why = format!(
                "the outermost element is <{other}>, so this is no Hadoop configuration; it has to be <configuration>"
            );
            return Err(at(root, why));
        }
    }
    Ok(items)
}

fn at(node: Node<'_, '_>, why: String) -> SiteError {
    let TextPos { row, col } = node.document().text_pos_at(node.range().start);
    SiteError {
        line: row,
        column: col,
        why,
    }
}

/// Walks as the streaming parser does: whatever is not known is looked through, not refused.
fn collect(node: Node<'_, '_>, depth: usize, items: &mut Vec<Item>) -> Result<(), SiteError> {
    if depth > MAX_DEPTH {
        return Err(at(
            node,
            format!("elements are nested more than {MAX_DEPTH} deep"),
        ));
    }
    match node.tag_name().name() {
        "property" => items.extend(property(node)),
        "include" => items.extend(include(node, depth)?),
        // A fallback is read by its include; a stray one belongs to nothing.
        "fallback" => {}
        _ => {
            for child in node.children().filter(Node::is_element) {
                collect(child, depth + 1, items)?;
            }
        }
    }
    Ok(())
}

fn property(node: Node<'_, '_>) -> Option<Item> {
    // Attributes first, elements win over them: the order in which Hadoop meets them.
    let mut name = node.attribute("name").map(str::to_owned);
    let mut value = node.attribute("value").map(str::to_owned);
    let mut is_final = node.attribute("final") == Some("true");
    for child in node.descendants().filter(Node::is_element).skip(1) {
        let text = || -> String { child.descendants().filter_map(|n| text_of(&n)).collect() };
        match child.tag_name().name() {
            "name" => {
                let text = text().trim().to_owned();
                name = Some(text).filter(|text| !text.is_empty()).or(name);
            }
            "value" => value = Some(text()).filter(|t| !t.is_empty()).or(value),
            // Hadoop does not trim here: `<final> true </final>` is not final.
            "final" => is_final = text() == "true",
            _ => {}
        }
    }
    Some(Item::Property {
        name: name?,
        value,
        is_final,
        line: node.document().text_pos_at(node.range().start).row,
    })
}

fn text_of<'a>(node: &Node<'a, '_>) -> Option<&'a str> {
    node.is_text().then(|| node.text()).flatten()
}

fn include(node: Node<'_, '_>, depth: usize) -> Result<Option<Item>, SiteError> {
    let Some(href) = node.attribute("href") else {
        return Ok(None);
    };
    let mut fallback = None;
    for child in node
        .children()
        .filter(|n| n.tag_name().name() == "fallback")
    {
        let items = fallback.get_or_insert_with(Vec::new);
        for inner in child.children().filter(Node::is_element) {
            collect(inner, depth + 1, items)?;
        }
    }
    Ok(Some(Item::Include {
        href: href.to_owned(),
        fallback,
        line: node.document().text_pos_at(node.range().start).row,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<Item>, SiteError> {
        parse(text, &|_| Ok(None))
    }

    /// `name=value` with `!` behind a final one, `@href` for an include.
    fn shown(text: &str) -> Vec<String> {
        fn show(items: &[Item]) -> Vec<String> {
            items
                .iter()
                .map(|item| match item {
                    Item::Property {
                        name,
                        value,
                        is_final,
                        ..
                    } => format!(
                        "{name}={}{}",
                        value.as_deref().unwrap_or("-"),
                        if *is_final { "!" } else { "" }
                    ),
                    Item::Include { href, fallback, .. } => {
                        format!("@{href}{:?}", fallback.as_deref().map(show))
                    }
                })
                .collect()
        }
        show(&read(text).unwrap())
    }

    #[test]
    fn properties_as_hadoop_reads_them() {
        let table = [
            (
                "<property><name> a </name><value> x </value></property>",
                "a= x ",
            ),
            ("<property><name>a</name><value></value></property>", "a=-"),
            ("<property><name>a</name><value/></property>", "a=-"),
            ("<property><name>a</name></property>", "a=-"),
            (
                "<property><name>a</name><value><![CDATA[<b>]]> c</value></property>",
                "a=<b> c",
            ),
            (
                "<property><name>a</name><value>1<!-- x -->2</value></property>",
                "a=12",
            ),
            (
                "<property><name>a</name><value>&lt;&amp;&#65;</value></property>",
                "a=<&A",
            ),
            (
                "<property><name>a</name><value>1</value><final>true</final></property>",
                "a=1!",
            ),
            (
                "<property><name>a</name><value>1</value><final> true </final></property>",
                "a=1",
            ),
            ("<property name='a' value='1' final='true'/>", "a=1!"),
            (
                "<property name='a' value='1'><value>2</value></property>",
                "a=2",
            ),
            (
                "<configuration><property name='a' value='1'/></configuration>",
                "a=1",
            ),
            ("<other><property name='a' value='1'/></other>", "a=1"),
            (
                "<property><description>d</description><value>1</value><name>a</name></property>",
                "a=1",
            ),
        ];
        for (inner, expected) in table {
            assert_eq!(
                shown(&format!("<configuration>{inner}</configuration>")),
                [expected],
                "{inner}"
            );
        }
        assert!(
            shown("<configuration><property><value>1</value></property></configuration>")
                .is_empty()
        );
    }

    #[test]
    fn includes_keep_their_place_and_their_fallback() {
        let text = "<configuration xmlns:xi='http://www.w3.org/2001/XInclude'>
            <property name='a' value='1'/>
            <xi:include href='x.xml'/>
            <xi:include href='y.xml'><xi:fallback/></xi:include>
            <xi:include href='z.xml'><xi:fallback><property name='f' value='2'/></xi:fallback></xi:include>
            <xi:include/>
            <property name='b' value='3'/>
            </configuration>";
        assert_eq!(
            shown(text),
            [
                "a=1",
                "@x.xmlNone",
                "@y.xmlSome([])",
                "@z.xmlSome([\"f=2\"])",
                "b=3"
            ]
        );
    }

    #[test]
    fn entities_are_taken_from_beside_the_file() {
        let text = "<!DOCTYPE configuration [<!ENTITY common SYSTEM 'common.xml'>]>\n\
                    <configuration>&common;<property name='b' value='2'/></configuration>";
        let items = parse(text, &|system| {
            assert_eq!(system, "common.xml");
            Ok(Some("<property name='a' value='1'/>"))
        })
        .unwrap();
        assert_eq!(items.len(), 2);
        let refused = parse(text, &|_| Err("no".to_owned())).unwrap_err();
        assert!(refused.why.contains("no"), "{refused:?}");
    }

    #[test]
    fn broken_text_is_an_error_with_its_place() {
        let table = [
            ("", 1, "root node"),
            ("<configuration>\n<property>\n</configuration>", 3, "tag"),
            (
                "<configuration>\n<property name='a' name='b'/></configuration>",
                2,
                "defined",
            ),
            ("<html><body>proxy error</body></html>", 1, "<html>"),
            (
                "<configuration>\n <xi:include href='a'/></configuration>",
                2,
                "xmlns:xi",
            ),
            ("<configuration>&nope;</configuration>", 1, "nope"),
        ];
        for (text, line, word) in table {
            let error = read(text).unwrap_err();
            assert_eq!(error.line, line, "{text}: {error:?}");
            assert!(error.why.contains(word), "{text}: {error:?}");
        }
        let deep = "<a>".repeat(100) + &"</a>".repeat(100);
        assert!(read(&format!("<configuration>{deep}</configuration>")).is_err());
    }

    #[test]
    fn lines_count_from_one() {
        let items =
            read("<configuration>\n\n<property name='a' value='1'/></configuration>").unwrap();
        assert!(
            matches!(items[..], [Item::Property { line: 3, .. }]),
            "{items:?}"
        );
    }
}
