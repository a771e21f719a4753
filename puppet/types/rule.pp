# Who is let in: all conditions of a rule hold at once, and one of the first three says who it is.
type Bridgeward::Rule = Struct[{
    Optional[key]        => Array[Bridgeward::Name, 1],
    Optional[certname]   => Array[String[1], 1],
    Optional[extensions] => Hash[String[1], Array[String[1], 1], 1],
    Optional[networks]   => Array[String[1], 1],
}]
