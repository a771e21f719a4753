# frozen_string_literal: true

# Writes a hash as TOML 1.0: plain values first, then its tables. Values that are undef are left out.
Puppet::Functions.create_function(:'bridgeward::to_toml') do
  # @param value what is written; keys are strings
  # @return [String] lines of TOML
  # @example A route
  #   bridgeward::to_toml({ 'method' => 'GET', 'allow' => [{ 'certname' => ['web*'] }] })
  dispatch :to_toml do
    param 'Hash[String[1], Any]', :value
    return_type 'String'
  end

  def to_toml(value)
    table(value, [])
  end

  private

  def table(value, path)
    given = value.reject { |_, inner| inner.nil? }
    tables, plain = given.partition { |_, inner| table?(inner) }
    lines = plain.map { |name, inner| "#{key(name)} = #{inline(inner)}\n" }.join
    tables.reduce(lines) do |text, (name, inner)|
      at = path + [key(name)]
      if inner.is_a?(Array)
        text + inner.map { |element| "\n[[#{at.join('.')}]]\n#{table(element, at)}" }.join
      elsif inner.any? && inner.values.all? { |below| table?(below) }
        text + table(inner, at)
      else
        text + "\n[#{at.join('.')}]\n#{table(inner, at)}"
      end
    end
  end

  def table?(value)
    value.is_a?(Hash) || (value.is_a?(Array) && value.any? && value.all? { |element| element.is_a?(Hash) })
  end

  def inline(value)
    case value
    when Hash then "{ #{value.reject { |_, inner| inner.nil? }.map { |name, inner| "#{key(name)} = #{inline(inner)}" }.join(', ')} }"
    when Array then "[#{value.map { |element| inline(element) }.join(', ')}]"
    when Integer, Float, true, false then value.to_s
    when String then string(value)
    else raise ArgumentError, "a #{value.class} has no form in TOML"
    end
  end

  def key(name)
    name.match?(%r{\A[A-Za-z0-9_-]+\z}) ? name : string(name)
  end

  def string(text)
    escaped = text.encode(Encoding::UTF_8).gsub(%r{["\\]|[[:cntrl:]]}) do |character|
      %(\\#{character}).then { |plain| ['"', '\\'].include?(character) ? plain : format('\\u%04X', character.ord) }
    end
    %("#{escaped}")
  end
end
