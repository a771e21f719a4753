//! What a benchmark prints: a table of names and figures.

/// Prints rows of a name and a figure.
pub fn table(title: &str, rows: &[(&str, String)]) {
    println!("\n{title}");
    for (name, figure) in rows {
        println!("  {name:<58} {figure:>16}");
    }
}
