//! The outline of a JSON object: its names and strings, and where all other values stand.
//!
//! The scanner walks the text once and copies what simd-json is to read. Every value that is not
//! a string becomes `0` in the copy, except that an object keeps its own members, one level down.
//! What was cut out is found again by its place in the walk.

use std::mem;
use std::ops::Range;

use simd_json::{Buffers, INPUT_PADDING, Node, Tape};

use super::scan::{NotJson, Scanner};

/// Memory for the outline of one object after another.
pub(super) struct Outline {
    /// The outline, which simd-json then unescapes in place.
    copy: Vec<u8>,
    /// Where the value of each member stands in the text, in the order of the outline: a member,
    /// then the members of its value, then the next.
    spans: Vec<Range<usize>>,
    /// How much of both belongs to whole members: what remains when the text goes wrong.
    whole: (usize, usize),
    buffers: Buffers,
    tape: Tape<'static>,
}

impl Outline {
    pub(super) fn new() -> Outline {
        Outline {
            copy: Vec::new(),
            spans: Vec::new(),
            whole: (0, 0),
            buffers: Buffers::default(),
            tape: Tape(Vec::new()),
        }
    }

    /// Reads `text`, which should be one object, and hands its members to `collect`. Where the
    /// text is not valid, these are the members up to that place, and the fault comes with them.
    ///
    /// The value of the member called `opaque` is cut out whatever it is: it is not looked into,
    /// and it may be long.
    pub(super) fn read<'a, T>(
        &'a mut self,
        text: &'a str,
        opaque: &str,
        collect: impl FnOnce(Object<'_, 'a>) -> T,
    ) -> (T, Option<NotJson>) {
        let mut fault = self.walk(text, opaque).err();
        let len = self.copy.len();
        self.copy.resize(len + INPUT_PADDING, 0);
        let Outline {
            copy,
            spans,
            buffers,
            tape: kept,
            ..
        } = self;
        let mut tape = mem::replace(kept, Tape(Vec::new())).reset();
        if simd_json::fill_tape_padded(copy, len, buffers, &mut tape).is_err() {
            // The outline is valid by construction; should the two ever disagree, the peer's
            // message is refused.
            tape.0.clear();
            fault.get_or_insert(NotJson::Unexpected {
                at: 0,
                expected: "an object",
            });
        }
        let nodes = tape.0.get(1..).unwrap_or_default();
        let collected = collect(Object { nodes, spans, text });
        *kept = tape.reset();
        (collected, fault)
    }

    fn walk(&mut self, text: &str, opaque: &str) -> Result<(), NotJson> {
        self.copy.clear();
        self.spans.clear();
        self.copy.push(b'{');
        self.whole = (1, 0);
        let mut scanner = Scanner::new(text);
        scanner.space();
        let walked = self.object(
            &mut scanner,
            Level::Top {
                opaque: opaque.as_bytes(),
            },
        );
        let walked = walked.and_then(|()| {
            scanner.space();
            scanner.end()
        });
        if walked.is_err() {
            self.copy.truncate(self.whole.0);
            self.spans.truncate(self.whole.1);
            self.copy.push(b'}');
        }
        walked
    }

    /// Takes an object whose opening brace is next in the text and already in the copy.
    fn object(&mut self, scanner: &mut Scanner<'_>, level: Level<'_>) -> Result<(), NotJson> {
        scanner.expect(b'{', "an object")?;
        scanner.space();
        if !scanner.eat(b'}') {
            loop {
                self.member(scanner, level)?;
                if let Level::Top { .. } = level {
                    self.whole = (self.copy.len(), self.spans.len());
                }
                scanner.space();
                if scanner.eat(b'}') {
                    break;
                }
                scanner.expect(b',', "a comma or a closing brace")?;
                scanner.space();
            }
        }
        self.copy.push(b'}');
        Ok(())
    }

    fn member(&mut self, scanner: &mut Scanner<'_>, level: Level<'_>) -> Result<(), NotJson> {
        let (name, is_unicode) = scanner.name()?;
        if !is_unicode {
            // Half a surrogate pair: no name of ours, and simd-json would refuse all of it.
            return scanner.value().map(|_| ());
        }
        let name = scanner.bytes(name);
        if self.copy.last() != Some(&b'{') {
            self.copy.push(b',');
        }
        self.copy.extend_from_slice(name);
        self.copy.push(b':');
        let (start, slot) = (scanner.at(), self.spans.len());
        self.spans.push(start..start);
        match scanner.peek() {
            Some(b'"') if !level.is_opaque(name) => {
                let is_unicode = scanner.string()?;
                let text = scanner.bytes(start..scanner.at());
                // A string that no text can hold is no string for us either.
                self.copy
                    .extend_from_slice(if is_unicode { text } else { b"0" });
            }
            Some(b'{') if level.keeps_members_of(name) => {
                self.copy.push(b'{');
                self.object(scanner, Level::Inner)?;
            }
            _ => {
                scanner.value()?;
                self.copy.push(b'0');
            }
        }
        if let Some(span) = self.spans.get_mut(slot) {
            span.end = scanner.at();
        }
        Ok(())
    }
}

/// How deep the walk is; it goes no deeper than `Inner`.
#[derive(Copy, Clone)]
enum Level<'o> {
    Top { opaque: &'o [u8] },
    Inner,
}

impl Level<'_> {
    /// Whether the value of the member called `name`, quotes included, is to be cut out. A name
    /// written with escapes is not recognised here, which costs a copy and changes nothing.
    fn is_opaque(self, name: &[u8]) -> bool {
        match self {
            Level::Top { opaque } => {
                name.strip_prefix(b"\"")
                    .and_then(|name| name.strip_suffix(b"\""))
                    == Some(opaque)
            }
            Level::Inner => false,
        }
    }

    /// Whether the value of the member called `name`, if it is an object, keeps its members.
    fn keeps_members_of(self, name: &[u8]) -> bool {
        matches!(self, Level::Top { .. }) && !self.is_opaque(name)
    }
}

/// The members of an object.
#[derive(Clone)]
pub(super) struct Object<'t, 'a> {
    nodes: &'t [Node<'a>],
    spans: &'t [Range<usize>],
    text: &'a str,
}

/// A member's value.
#[derive(Copy, Clone)]
pub(super) struct Value<'a> {
    /// As it stands in the text.
    pub(super) raw: &'a str,
    /// Unescaped, if it is a string of well-formed Unicode.
    pub(super) text: Option<&'a str>,
}

impl<'t, 'a> Iterator for Object<'t, 'a> {
    type Item = (&'a str, Value<'a>, Object<'t, 'a>);

    /// The next member: its name, its value, and the members of that if it was kept as an object.
    fn next(&mut self) -> Option<Self::Item> {
        let [Node::String(name), value, nodes @ ..] = self.nodes else {
            return None;
        };
        let (span, spans) = self.spans.split_first()?;
        let (text, inner) = match value {
            Node::String(text) => (Some(*text), 0),
            Node::Object { len, .. } => (None, *len),
            _ => (None, 0),
        };
        // The members of an inner object are a name and a scalar each.
        let (inner_nodes, nodes) = nodes.split_at_checked(inner * 2)?;
        let (inner_spans, spans) = spans.split_at_checked(inner)?;
        (self.nodes, self.spans) = (nodes, spans);
        let raw = self.text.get(span.clone()).unwrap_or_default();
        let inner = Object {
            nodes: inner_nodes,
            spans: inner_spans,
            text: self.text,
        };
        Some((name, Value { raw, text }, inner))
    }
}

impl<'a> Object<'_, 'a> {
    /// A name that more than one member has, if there is one.
    pub(super) fn repeated_name(self) -> Option<&'a str> {
        const FEW: usize = 8;
        if self.clone().nth(FEW).is_none() {
            let mut members = self;
            while let Some((name, ..)) = members.next() {
                if members.clone().any(|(other, ..)| other == name) {
                    return Some(name);
                }
            }
            return None;
        }
        // A peer that sends thousands of members must not make us compare each with each.
        let mut names: Vec<&str> = self.map(|(name, ..)| name).collect();
        names.sort_unstable();
        names.windows(2).find_map(|pair| match pair {
            [one, other] if one == other => Some(*one),
            _ => None,
        })
    }
}
