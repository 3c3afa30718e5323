//! The language: what is left of a file when its preprocessor and its quotes are done.

use super::*;
use std::path::Path;

/// The statements as `keyword argument argument { ... }`, one a line, and what was noted, with file, line and column.
fn parsed_in(directory: &Path, text: &str) -> (String, Vec<String>) {
    let (log, setting) = (Log::default(), Setting { id: "lb1".to_owned(), guard: false });
    let source = Arc::new(Source { path: directory.join("k.conf"), text: text.to_owned() });
    let shown = show(&syntax::parse(&source, &setting, &log));
    let notes = match log.finish(Some) {
        Ok(warnings) => warnings,
        Err(errors) => errors.iter().cloned().collect(),
    };
    let note = |note: &Diagnostic| {
        let (line, column) = note.place.line_column();
        let file = note.place.source.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("{file}:{line}:{column}: {}", note.message)
    };
    (shown, notes.iter().map(note).collect())
}

fn show(statements: &[Statement]) -> String {
    let mut text = String::new();
    for Statement { keyword, arguments, block } in statements {
        let words: Vec<_> = [keyword].into_iter().chain(arguments).map(|word| word.text.as_str()).collect();
        text += &words.join("|");
        if let Some(block) = block {
            text += &format!(" {{\n{}}}", show(block));
        }
        text += "\n";
    }
    text
}

fn parsed(text: &str) -> String {
    let (shown, notes) = parsed_in(Path::new("/nowhere"), text);
    assert_eq!(notes, [""; 0], "{text}");
    shown
}

fn notes(text: &str) -> Vec<String> {
    parsed_in(Path::new("/nowhere"), text).1
}

#[test]
fn comments_quotes_and_braces() {
    // Single quotes are none but of scripts, and what is in double quotes is a word of its own.
    assert_eq!(parsed("a b # c\n! d\n  e'f g'\"h i\"j ! k"), "a|b\ne'f|g'|h i|j\n");
    assert_eq!(parsed("a \"b#c!d\" it's # e"), "a|b#c!d|it's\n");
    assert_eq!(parsed(r"auth_pass ab\#1\!\x # c"), "auth_pass|ab#1!\\x\n");
    assert_eq!(parsed("a b\n{ c d\n e { f } }\ng"), "a|b {\nc|d\ne {\nf\n}\n}\ng\n");
    // Escapes are known where scripts stand, and nowhere else.
    assert_eq!(parsed(r"auth_pass a\x42"), "auth_pass|a\\x42\n");
    assert_eq!(
        parsed(r#"notify_master "/n ' s\\x20f\x69le ' '\"q\"' \101\cA\t" user"#),
        "notify_master|/n ' s\\x20file ' '\"q\"' A\u{1}\t|user\n"
    );
}

#[test]
fn conditional_lines_are_for_the_machines_they_name() {
    assert_eq!(parsed("@lb1 a\n@lb2 b\n@^lb1 c\n@^lb2 d\n@lb1 @^lb3 e\n@lb2 x {"), "a\nd\ne\n");
    assert_eq!(parsed("@lb1 $A=1\n@lb2 $A=2\na $A\n$WHO=@lb2\n$WHO b\n"), "a|1\n");
}

#[test]
fn definitions_are_replaced_where_they_are_used() {
    assert_eq!(parsed("$A=10.2.${B}\n$B=0\n${A}.1\n$B=10\n${A}.1"), "10.2.0.1\n10.2.10.1\n");
    assert_eq!(parsed("$A=x\na \"${A} $A y\" $A"), "a|x x y|x\n");
    assert_eq!(parsed("$E=\na ${E}b"), "a|b\n");
    assert_eq!(parsed("a ${_HASH} ${_BANG}b ${_INSTANCE} ${_PWD}/c"), "a|#|!b|lb1|/nowhere/c\n");
    assert_eq!(parsed("a ${_ENV CARGO_PKG_NAME}"), "a|hamesh\n");
    assert_eq!(
        parsed(
            "$RS= \\\n r ${V}.${N} { \\\n w 1 \\\n ! c\n x 2 \\ # c\n }\n$VS= \\\n v ${V} { \\\n $N=1 \\\n $RS \\\n $N=2 \\\n $RS \\\n }\n$V=7\n$VS"
        ),
        "v|7 {\nr|7.1 {\nw|1\nx|2\n}\nr|7.2 {\nw|1\nx|2\n}\n}\n"
    );
}

#[test]
fn sequences_and_lists_repeat_the_rest_of_the_line() {
    assert_eq!(parsed("~SEQ(N,3) a${N}"), "a1\na2\na3\n");
    assert_eq!(parsed("~SEQ(N, -2) a${N}"), "a-1\na-2\n");
    assert_eq!(parsed("~SEQ(N,5,3) a${N}"), "a5\na4\na3\n");
    assert_eq!(parsed("~SEQ(N,1,2,6) a $N"), "a|1\na|3\na|5\n");
    assert_eq!(
        parsed("~SEQx(A, 0x90, 0x10, 0xb0) ~SEQx(B, 9, -1, 8) f::${A}:${B}"),
        "f::90:9\nf::90:8\nf::a0:9\nf::a0:8\nf::b0:9\nf::b0:8\n"
    );
    assert_eq!(parsed("~LST({X, Y}, {10,1},{20,4}) ~LST(Z, 5,6) ${X}.${Y}.$Z"), "10.1.5\n10.1.6\n20.4.5\n20.4.6\n");
    assert_eq!(parsed("$N=2\n~SEQ(M,1,${N}) a $M"), "a|1\na|2\n");
    assert_eq!(parsed("$B= \\\n v ${N} { \\\n @lb1 p \\\n }\n~SEQ(N,2) $B"), "v|1 {\np\n}\nv|2 {\np\n}\n");
}

#[test]
fn what_has_no_end_or_no_sense_is_refused_where_it_is_written() {
    assert_eq!(notes("$A=${A}\n a ${A}"), ["k.conf:2:4: what `A` stands for has no end"]);
    assert_eq!(notes("$A= \\\n $A \\\n b\n$A"), ["k.conf:4:1: what `A` stands for has no end"]);
    let bomb = "$A=${B}${B}${B}${B}\n$B=${C}${C}${C}${C}\n$C=${D}${D}${D}${D}\n$D=${E}${E}${E}${E}\n$E=${F}${F}${F}${F}\n$F=x\na ${A}";
    assert_eq!(notes(bomb), ["k.conf:7:3: what `F` stands for has no end"]);
    assert_eq!(notes("~SEQ(A,1,0,9) a"), ["k.conf:1:1: this is no sequence that comes to an end"]);
    assert_eq!(notes("~SEQ(A,1 a"), ["k.conf:1:1: the parenthesis of this sequence is never closed"]);
    assert_eq!(notes("~LST({A,B},{1,2,3}) a"), ["k.conf:1:1: this is no sequence that comes to an end"]);
    assert_eq!(
        notes("~SEQ(A,999999999) @lb2 a"),
        ["k.conf:1:18: the configuration becomes more than 500000 lines here"]
    );
    assert_eq!(
        notes("a ${_RANDOM 1 2}"),
        ["k.conf:1:3: `_RANDOM` is refused: each reading would be another configuration"]
    );
    assert_eq!(notes("a ${B} ${B}"), ["k.conf:1:3: `B` is not defined: it stays as it is written, as in keepalived"]);
    assert_eq!(notes("$N=x\n\n  a \"${N}"), ["k.conf:3:5: this quote is never closed"]);
    // An empty line ends a definition.
    assert_eq!(parsed("$N= \\\n a \\\n\nb \n$N"), "b\na\n");
}

#[test]
fn files_are_included_from_beside_their_includer() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("conf.d/b.conf", "b ${_PWD}\ninclude c.inc\n");
    write("conf.d/a.conf", "a {\n");
    write("conf.d/c.inc", "c\n");
    write("conf.d/.hidden.conf", "hidden\n");
    let here = dir.path().to_string_lossy().into_owned();
    let read = |text: &str| {
        let (shown, notes) = parsed_in(dir.path(), text);
        (shown.replace(&here, "."), notes.iter().map(|note| note.replace(&here, ".")).collect::<Vec<_>>())
    };
    let none: Vec<String> = Vec::new();
    assert_eq!(read("include conf.d/*.conf\n}"), ("a {\nb|./conf.d\nc\n}\n".into(), none.clone()));
    assert_eq!(read("includea conf.d/{b,a}.conf\n}").0, "b|./conf.d\nc\na {\n}\n");
    assert_eq!(read("$D=conf.d\n@lb1 include ${D}/c.???\n@lb2 include conf.d/b.conf"), ("c\n".into(), none.clone()));
    assert_eq!(read("include conf.d/[a-b].conf\n}").0, "a {\nb|./conf.d\nc\n}\n");
    assert_eq!(read("include none.d/*"), (String::new(), none.clone()));
    assert_eq!(read("include none").1, ["k.conf:1:1: `none` names no file: nothing is included, as by keepalived"]);
    assert_eq!(read("includer none").1, ["k.conf:1:1: `none` names no file"]);
    assert_eq!(read("includem none").1, ["k.conf:1:1: `none` names no file"]);
    assert_eq!(read("includem none.d/*").1, none);
    assert_eq!(read("includew none.d/*").1, ["k.conf:1:1: `none.d/*` names no file"]);
    assert_eq!(read("includeb conf.d/{c.inc,d}").1, ["k.conf:1:1: `conf.d/d` names no file"]);
    assert_eq!(read("include_check match\ninclude none").1, ["k.conf:2:1: `none` names no file"]);
    assert_eq!(read("include_check mach").1, ["k.conf:1:1: `mach` is no check of includes"]);
    write("loop.conf", "include loop.conf\n");
    assert_eq!(read("include loop.conf").1, ["loop.conf:1:1: ./loop.conf would be read within itself"]);
    write("conf.d/ring.inc", "include ../conf.d/ring.in?\ninclude *.inc\n");
    let within = |line| format!("ring.inc:{line}:1: ./conf.d/../conf.d/ring.inc would be read within itself");
    assert!(read("include conf.d/ring.inc").1.contains(&within(1)));
    for level in 0..40 {
        let next = format!("include deep{0}\ninclude wide{0}\n", level + 1);
        write(&format!("deep{level}"), next.lines().next().unwrap_or_default());
        write(&format!("wide{level}"), &next.replace("deep", "wide"));
    }
    assert_eq!(read("include deep0").1, ["deep31:1:1: files include each other too deeply"]);
    // Each one twice, and no one within itself: a thousand million lines.
    assert!(read("include wide10").1[0].ends_with("the configuration includes more than 10000 files here"));
    write("long", &"#\n".repeat(1000));
    let many = "include long\n".repeat(501);
    assert_eq!(read(&many).1, ["long:1:1: the configuration becomes more than 500000 lines here"]);
    // What is wrong in an included file is said there.
    write("wrong.conf", "\n x \"y\n");
    assert_eq!(read("include wrong.conf").1, ["wrong.conf:2:4: this quote is never closed"]);
}
