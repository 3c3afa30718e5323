//! The syntax of keepalived.conf: lines of words, some with a block in braces.

use super::super::diagnostic::{Diagnostic, Log, Place, Source};
use super::expand::{Glyph, Line, Lines, Setting};
use std::sync::Arc;

/// Keywords whose words may have escapes, as C has them, and single quotes. Elsewhere both are what they are.
const ESCAPED: [&str; 19] = [
    "notify",
    "notify_master",
    "notify_backup",
    "notify_fault",
    "notify_stop",
    "notify_deleted",
    "notify_master_rx_lower_pri",
    "notify_up",
    "notify_down",
    "quorum_up",
    "quorum_down",
    "script",
    "misc_path",
    "startup_script",
    "shutdown_script",
    "notify_fifo_script",
    "vrrp_notify_fifo_script",
    "lvs_notify_fifo_script",
    "regex",
];

/// Blocks within blocks; keepalived itself knows no more than five.
const DEEPEST: usize = 8;

/// A word, without its quotes.
#[derive(Clone, Debug)]
pub(super) struct Word {
    pub text: String,
    pub place: Place,
}

/// A line, and the block that belongs to it.
#[derive(Clone, Debug)]
pub(super) struct Statement {
    pub keyword: Word,
    pub arguments: Vec<Word>,
    pub block: Option<Vec<Self>>,
}

enum Token {
    Word(Word),
    Open(Place),
    Close(Place),
    EndOfLine,
}

/// The statements of the file; what is wrong with their form is noted.
pub(super) fn parse(source: &Arc<Source>, setting: &Setting, log: &Log) -> Vec<Statement> {
    // One level per open block; the last statement of a level may still get arguments or its block.
    let mut levels: Vec<(Option<Place>, Vec<Statement>)> = vec![(None, Vec::new())];
    let mut continues = false;
    for token in tokens(source, setting, log) {
        let depth = levels.len();
        let Some((_, level)) = levels.last_mut() else { break };
        match token {
            Token::Word(word) => match level.last_mut().filter(|_| continues) {
                Some(statement) => statement.arguments.push(word),
                None => {
                    level.push(Statement { keyword: word, arguments: Vec::new(), block: None });
                    continues = true;
                }
            },
            Token::EndOfLine => continues = false,
            Token::Open(place) => {
                continues = false;
                if level.last().is_none_or(|statement| statement.block.is_some()) {
                    log.add(Diagnostic::error(&place, "a block without a keyword"));
                    return Vec::new();
                }
                if depth > DEEPEST {
                    log.add(Diagnostic::error(&place, "blocks are nested too deeply"));
                    return Vec::new();
                }
                levels.push((Some(place), Vec::new()));
            }
            Token::Close(place) => {
                continues = false;
                if depth == 1 {
                    log.add(Diagnostic::error(&place, "nothing is open here to be closed"));
                    return Vec::new();
                }
                close(&mut levels);
            }
        }
    }
    while levels.len() > 1 {
        if let Some((Some(open), _)) = levels.last() {
            log.add(Diagnostic::error(open, "this block is never closed"));
        }
        close(&mut levels);
    }
    levels.pop().map(|(_, statements)| statements).unwrap_or_default()
}

fn close(levels: &mut Vec<(Option<Place>, Vec<Statement>)>) {
    let block = levels.pop().map(|(_, block)| block);
    if let Some(owner) = levels.last_mut().and_then(|(_, level)| level.last_mut()) {
        owner.block = block;
    }
}

fn tokens(source: &Arc<Source>, setting: &Setting, log: &Log) -> Vec<Token> {
    let mut tokens = Vec::new();
    for line in Lines::new(source, setting, log) {
        scan(&line, log, &mut tokens);
        tokens.push(Token::EndOfLine);
    }
    tokens
}

/// Words of a line. Behind a keyword of [`ESCAPED`] parts in quotes and parts without make up one word; behind others what is
/// in double quotes is a word of its own.
fn scan(line: &Line, log: &Log, tokens: &mut Vec<Token>) {
    let text = &line.text;
    let (mut at, mut escapes) = (0, false);
    let mut begins = true;
    while let Some(glyph) = text.get(at) {
        let start = at;
        match glyph.c {
            '{' => tokens.push(Token::Open(line.place(&text[at..=at]))),
            '}' => tokens.push(Token::Close(line.place(&text[at..=at]))),
            c if c.is_whitespace() => {}
            _ => {
                let (mut word, mut quote) = (String::new(), None);
                while let Some(c) = text.get(at).map(|glyph| glyph.c) {
                    match quote {
                        None | Some('"' | '\'') if escapes && c == '\\' => {
                            let (escaped, length) = escape(&text[at + 1..]);
                            word.extend(escaped);
                            at += length;
                        }
                        None if c == '"' && !escapes && at > start => break,
                        None if c == '"' || c == '\'' && escapes => quote = Some(c),
                        // A name that is not defined, left as it is.
                        None if c == '{' && word.ends_with('$') => {
                            word.push(c);
                            quote = Some('}');
                        }
                        None if c.is_whitespace() || matches!(c, '{' | '}') => break,
                        Some('}') if c == '}' => {
                            word.push(c);
                            quote = None;
                        }
                        Some(open) if c == open => {
                            quote = None;
                            if !escapes {
                                at += 1;
                                break;
                            }
                        }
                        None | Some(_) => word.push(c),
                    }
                    at += 1;
                }
                let place = line.place(&text[start..at.min(text.len())]);
                if quote.is_some() {
                    log.add(Diagnostic::error(&place, "this quote is never closed"));
                }
                if begins {
                    escapes = ESCAPED.contains(&word.as_str());
                }
                begins = false;
                tokens.push(Token::Word(Word { text: word, place }));
                continue;
            }
        }
        if !glyph.c.is_whitespace() {
            (begins, escapes) = (true, false);
        }
        at += 1;
    }
}

/// What stands behind a backslash: the character meant, if there is any, and how many of ours it took.
fn escape(rest: &[Glyph]) -> (Option<char>, usize) {
    let digits = |skip: usize, most: usize, radix: u32| {
        let digits: Vec<u32> = rest.iter().skip(skip).take(most).map_while(|glyph| glyph.c.to_digit(radix)).collect();
        let value = digits.iter().fold(0, |value, digit| value * radix + digit);
        (char::from_u32(value & 0xff).filter(|_| !digits.is_empty()), skip + digits.len())
    };
    let Some(c) = rest.first().map(|glyph| glyph.c) else { return (Some('\\'), 0) };
    let plain = |c| (Some(c), 1);
    match c {
        'a' => plain('\x07'),
        'b' => plain('\x08'),
        'E' => plain('\x1b'),
        'f' => plain('\x0c'),
        'n' => plain('\n'),
        'r' => plain('\r'),
        't' => plain('\t'),
        'v' => plain('\x0b'),
        'x' => digits(1, 2, 16),
        '0'..='7' => digits(0, 3, 8),
        'c' => match rest.get(1) {
            Some(glyph) => (char::from_u32(u32::from(glyph.c) & 0x1f), 2),
            None => plain('c'),
        },
        c => plain(c),
    }
}
