//! `~SEQ`, `~SEQx` and `~LST`: what the variables of a line that is repeated become.

/// The rounds that are left.
pub(super) enum Rounds {
    Sequence { name: String, next: Option<i64>, step: i64, end: i64, hexadecimal: bool },
    List { names: Vec<String>, rounds: std::vec::IntoIter<Vec<String>> },
}

impl Rounds {
    /// `~SEQ(...`, `~SEQx(...` or `~LST(...`, without the last parenthesis; `None` if it is none, or would not end.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, inside) = text.split_once('(')?;
        match kind.trim_end() {
            "~SEQ" => sequence(inside, false),
            "~SEQx" => sequence(inside, true),
            "~LST" => list(inside),
            _ => None,
        }
    }
}

impl Iterator for Rounds {
    type Item = Vec<(String, String)>;

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Sequence { name, next, step, end, hexadecimal } => {
                let value = next.filter(|value| if *step > 0 { *value <= *end } else { *value >= *end })?;
                *next = value.checked_add(*step);
                let text = if *hexadecimal { format!("{value:x}") } else { value.to_string() };
                Some(vec![(name.clone(), text)])
            }
            Self::List { names, rounds } => {
                let values = rounds.next()?.into_iter().chain(std::iter::repeat(String::new()));
                Some(names.iter().cloned().zip(values).collect())
            }
        }
    }
}

/// `NAME, [START, [STEP,]] END`; numbers may be hexadecimal.
fn sequence(inside: &str, hexadecimal: bool) -> Option<Rounds> {
    let mut parts = inside.split(',').map(str::trim);
    let name = parts.next().filter(|name| is_name(name))?.to_owned();
    let number = |text: &str| {
        let (sign, digits) = text.strip_prefix('-').map_or((1, text), |digits| (-1, digits));
        let value = match digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
            Some(digits) => i64::from_str_radix(digits, 16),
            None => digits.parse(),
        };
        value.ok().map(|value| sign * value)
    };
    let numbers: Option<Vec<i64>> = parts.map(number).collect();
    let towards = |start: i64, end: i64| if end < start { -1 } else { 1 };
    let (start, step, end) = match numbers?.as_slice() {
        [end] => (towards(0, *end), towards(0, *end), *end),
        [start, end] => (*start, towards(*start, *end), *end),
        [start, step, end] => (*start, *step, *end),
        _ => return None,
    };
    (step != 0).then_some(Rounds::Sequence { name, next: Some(start), step, end, hexadecimal })
}

/// `NAME, VALUE, ...` or `{NAME, ...}, {VALUE, ...}, ...`.
fn list(inside: &str) -> Option<Rounds> {
    let mut parts: Vec<Vec<String>> = Vec::new();
    let mut rest = inside.trim();
    while !rest.is_empty() {
        let (part, after) = match rest.strip_prefix('{') {
            Some(open) => {
                let (part, after) = open.split_once('}')?;
                let after = after.trim_start();
                let after = if after.is_empty() { after } else { after.strip_prefix(',')? };
                (part.split(',').map(|word| word.trim().to_owned()).collect(), after)
            }
            None => {
                let (part, after) = rest.split_once(',').unwrap_or((rest, ""));
                (vec![part.trim().to_owned()], after)
            }
        };
        parts.push(part);
        rest = after.trim_start();
    }
    let rounds = parts.split_off(1.min(parts.len()));
    let names = parts.pop().filter(|names| names.iter().all(|name| is_name(name)))?;
    let fits = !rounds.is_empty() && rounds.iter().all(|values| values.len() <= names.len());
    fits.then(|| Rounds::List { names, rounds: rounds.into_iter() })
}

/// Of a definition.
pub(super) fn is_name(name: &str) -> bool {
    name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
}
