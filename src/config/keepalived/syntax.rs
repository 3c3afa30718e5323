//! The syntax of keepalived.conf: lines of words, some with a block in braces.

use super::super::diagnostic::{Diagnostic, Log, Place, Source};
use std::ops::Range;
use std::sync::Arc;

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
pub(super) fn parse(source: &Arc<Source>, log: &Log) -> Vec<Statement> {
    // One level per open block; the last statement of a level may still get arguments or its block.
    let mut levels: Vec<(Option<Place>, Vec<Statement>)> = vec![(None, Vec::new())];
    let mut continues = false;
    for token in tokens(source, log) {
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

fn tokens(source: &Arc<Source>, log: &Log) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut offset = 0;
    for line in source.text.split_inclusive('\n') {
        scan(line, offset, source, log, &mut tokens);
        tokens.push(Token::EndOfLine);
        offset += line.len();
    }
    tokens
}

fn scan(line: &str, offset: usize, source: &Arc<Source>, log: &Log, tokens: &mut Vec<Token>) {
    let place = |range: Range<usize>| Place::at(source, offset + range.start..offset + range.end);
    let mut chars = line.char_indices().peekable();
    while let Some(&(start, c)) = chars.peek() {
        match c {
            '#' | '!' => return,
            '{' => tokens.push(Token::Open(place(start..start + 1))),
            '}' => tokens.push(Token::Close(place(start..start + 1))),
            c if c.is_whitespace() => {}
            _ => {
                let (mut text, mut end, mut quote) = (String::new(), start, None);
                while let Some(&(at, c)) = chars.peek() {
                    match quote {
                        // Parts in quotes and parts without make up one word.
                        None if matches!(c, '"' | '\'') => quote = Some(c),
                        // A definition, reported below as one word.
                        None if c == '{' && text.ends_with('$') => {
                            text.push(c);
                            quote = Some('}');
                        }
                        None if c.is_whitespace() || matches!(c, '{' | '}' | '#' | '!') => break,
                        Some(open) if c == open => quote = None,
                        None | Some(_) => text.push(c),
                    }
                    end = at + c.len_utf8();
                    chars.next();
                }
                let place = place(start..end);
                if quote.is_some() {
                    log.add(Diagnostic::error(&place, "this quote is never closed"));
                }
                let begins_line = !matches!(tokens.last(), Some(Token::Word(_)));
                if let Some(what) = unsupported(&text, begins_line) {
                    log.add(Diagnostic::error(&place, format!("{what} are not supported by this version")));
                }
                tokens.push(Token::Word(Word { text, place }));
                continue;
            }
        }
        chars.next();
    }
}

/// keepalived's preprocessor, which this parser does not have: read literally, such words would mean something else.
fn unsupported(word: &str, begins_line: bool) -> Option<&'static str> {
    if begins_line && word.starts_with('@') {
        return Some("conditional lines");
    }
    if word.starts_with("~SEQ") || word.starts_with("~LST") {
        return Some("sequences");
    }
    if word.starts_with('$') || word.contains("${") {
        return Some("definitions");
    }
    word.contains('\\').then_some("escapes")
}
