require 'yaml'

module MCollective
  module Facts
    # The packaged YAML facts do not load on Ruby 3, silently: every filter would match nothing.
    class Plain_facts < Base
      def load_facts_from_source
        YAML.safe_load(File.read(Config.instance.pluginconf.fetch('plain.file')))
      end
    end
  end
end
