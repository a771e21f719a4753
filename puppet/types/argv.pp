# A program's absolute path and its arguments, each an element of its own: no shell reads them.
type Bridgeward::Argv = Tuple[Pattern[/\A\//], String, 1, default]
