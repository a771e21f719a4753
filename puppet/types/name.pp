# The name of a route or a key, as the policy takes it.
type Bridgeward::Name = Pattern[/\A[A-Za-z0-9][A-Za-z0-9._-]{0,99}\z/]
