# The name of a user or a group.
type Bridgeward::Account = Pattern[/\A[a-z_][a-z0-9_-]{0,31}\z/]
