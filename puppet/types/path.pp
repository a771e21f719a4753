# An absolute path that a command line can hold without quoting.
type Bridgeward::Path = Pattern[/\A(\/[A-Za-z0-9_+-][A-Za-z0-9._+-]*)+\z/]
