//! The outline of a JSON object: its names and strings, and where all other values stand.
//!
//! The scanner walks the text once, and each member leaves a mark: where its name and its value
//! stand. An object within keeps marks of its own members, one level down. Names and strings are read
//! where they stand in the text; only those with escapes are copied.

use std::ops::Range;

use super::scan::{NotJson, Scanner, Spelling};
use super::unescape::unescape;

/// Marks that memory is kept for from one text to the next; a text may have as many as half its bytes.
const MARKS_KEPT: usize = 1024;

/// Unescaped bytes that memory is kept for.
const UNESCAPED_KEPT: usize = 16 * 1024;

/// Memory for the outline of one object after another.
#[derive(Default)]
pub(super) struct Outline {
    /// The members in the order of the text: a member, then the members of its value, then the next.
    marks: Vec<Mark>,
    /// How many of them belong to whole members: what remains when the text goes wrong.
    whole: usize,
    /// Names and strings that had escapes, without them, end to end.
    unescaped: String,
}

/// A member, as places.
struct Mark {
    name: Place,
    /// The value, quotes and brackets included.
    value: Range<usize>,
    /// What the value says, where it is a string that a text can hold.
    string: Option<Place>,
    /// How many of the marks that follow are of members of the value.
    inner: usize,
}

/// Where a name or a string is to be read.
enum Place {
    Text(Range<usize>),
    Unescaped(Range<usize>),
}

impl Outline {
    /// Reads `text`, which should be one object, and hands its members to `collect`. Where the
    /// text is not valid, these are the members up to that place, and the fault comes with them.
    ///
    /// The value of the member called `opaque` is not looked into, whatever it is: it may be long.
    pub(super) fn read<'a, T>(
        &'a mut self,
        text: &'a str,
        opaque: &str,
        collect: impl FnOnce(Object<'a>) -> T,
    ) -> (T, Option<NotJson>) {
        let fault = self.walk(text, opaque).err();
        if fault.is_some() {
            self.marks.truncate(self.whole);
        }
        let members = Object {
            marks: &self.marks,
            text,
            unescaped: &self.unescaped,
        };
        (collect(members), fault)
    }

    fn walk(&mut self, text: &str, opaque: &str) -> Result<(), NotJson> {
        self.marks.clear();
        self.marks.shrink_to(MARKS_KEPT);
        self.unescaped.clear();
        self.unescaped.shrink_to(UNESCAPED_KEPT);
        self.whole = 0;
        let mut scanner = Scanner::new(text);
        scanner.space();
        let level = Level::Top {
            opaque: opaque.as_bytes(),
        };
        self.object(&mut scanner, level)?;
        scanner.space();
        scanner.end()
    }

    /// Takes an object whose opening brace is next.
    fn object(&mut self, scanner: &mut Scanner<'_>, level: Level<'_>) -> Result<(), NotJson> {
        scanner.expect(b'{', "an object")?;
        scanner.space();
        if scanner.eat(b'}') {
            return Ok(());
        }
        loop {
            self.member(scanner, level)?;
            if let Level::Top { .. } = level {
                self.whole = self.marks.len();
            }
            scanner.space();
            if scanner.eat(b'}') {
                return Ok(());
            }
            scanner.expect(b',', "a comma or a closing brace")?;
            scanner.space();
        }
    }

    fn member(&mut self, scanner: &mut Scanner<'_>, level: Level<'_>) -> Result<(), NotJson> {
        let (name, spelling) = scanner.name()?;
        let Some(name) = self.place(scanner, name, spelling) else {
            // Half a surrogate pair: no name of ours.
            return scanner.value().map(drop);
        };
        let is_opaque = level.is_opaque(match &name {
            Place::Text(range) => scanner.bytes(range.clone()),
            Place::Unescaped(range) => {
                let unescaped = self.unescaped.get(range.clone());
                unescaped.unwrap_or_default().as_bytes()
            }
        });
        let (start, slot) = (scanner.at(), self.marks.len());
        self.marks.push(Mark {
            name,
            value: start..start,
            string: None,
            inner: 0,
        });
        let mut string = None;
        match scanner.peek() {
            Some(b'"') if !is_opaque => {
                let spelling = scanner.string()?;
                string = self.place(scanner, start + 1..scanner.at() - 1, spelling);
            }
            Some(b'{') if !is_opaque && level.keeps_inner() => {
                self.object(scanner, Level::Inner)?;
            }
            _ => {
                scanner.value()?;
            }
        }
        let inner = self.marks.len() - slot - 1;
        if let Some(mark) = self.marks.get_mut(slot) {
            mark.value.end = scanner.at();
            mark.string = string;
            mark.inner = inner;
        }
        Ok(())
    }

    /// Where a name or a string is to be read; none where no text can hold it.
    fn place(
        &mut self,
        scanner: &Scanner<'_>,
        within: Range<usize>,
        spelling: Spelling,
    ) -> Option<Place> {
        match spelling {
            Spelling::Plain => Some(Place::Text(within)),
            Spelling::Escaped => {
                let start = self.unescaped.len();
                unescape(scanner.text(within), &mut self.unescaped);
                Some(Place::Unescaped(start..self.unescaped.len()))
            }
            Spelling::NotUnicode => None,
        }
    }
}

/// How deep the walk is; it goes no deeper than `Inner`.
#[derive(Copy, Clone)]
enum Level<'o> {
    Top { opaque: &'o [u8] },
    Inner,
}

impl Level<'_> {
    /// Whether the value of the member called `name`, escapes undone, is not to be looked into. One
    /// that is looked into may be a level deeper than any other value.
    fn is_opaque(self, name: &[u8]) -> bool {
        match self {
            Level::Top { opaque } => name == opaque,
            Level::Inner => false,
        }
    }

    /// Whether values that are objects keep their members.
    fn keeps_inner(self) -> bool {
        matches!(self, Level::Top { .. })
    }
}

/// The members of an object.
#[derive(Copy, Clone)]
pub(super) struct Object<'a> {
    marks: &'a [Mark],
    text: &'a str,
    unescaped: &'a str,
}

/// A member's value.
#[derive(Copy, Clone)]
pub(super) struct Value<'a> {
    /// As it stands in the text.
    pub(super) raw: &'a str,
    /// Unescaped, if it is a string of well-formed Unicode.
    pub(super) text: Option<&'a str>,
}

impl<'a> Iterator for Object<'a> {
    type Item = (&'a str, Value<'a>, Object<'a>);

    /// The next member: its name, its value, and the members of that if it was kept as an object.
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (mark, rest) = self.marks.split_first()?;
        let (inner, rest) = rest.split_at_checked(mark.inner)?;
        self.marks = rest;
        let value = Value {
            raw: self.text.get(mark.value.clone()).unwrap_or_default(),
            text: mark.string.as_ref().map(|place| self.read(place)),
        };
        let inner = Object {
            marks: inner,
            ..*self
        };
        Some((self.read(&mark.name), value, inner))
    }
}

impl<'a> Object<'a> {
    #[inline]
    fn read(&self, place: &Place) -> &'a str {
        let read = match place {
            Place::Text(range) => self.text.get(range.clone()),
            Place::Unescaped(range) => self.unescaped.get(range.clone()),
        };
        read.unwrap_or_default()
    }

    /// A name that more than one member has, if there is one.
    pub(super) fn repeated_name(self) -> Option<&'a str> {
        const FEW: usize = 8;
        if self.marks.len() <= FEW {
            let mut members = self;
            while let Some((name, ..)) = members.next() {
                if members.into_iter().any(|(other, ..)| other == name) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_of_many_members_leaves_no_more_memory_than_is_kept() {
        let mut outline = Outline::default();
        let members: Vec<String> = (0..20_000)
            .map(|i| format!(r#""\u0061{i}":"\n""#))
            .collect();
        let text = format!("{{{}}}", members.join(","));
        assert!(outline.read(&text, "payload", |_| ()).1.is_none());
        assert!(outline.marks.capacity() > MARKS_KEPT);
        outline.read("{}", "payload", |_| ());
        assert!(outline.marks.capacity() <= MARKS_KEPT);
        assert!(outline.unescaped.capacity() <= UNESCAPED_KEPT);
    }
}
