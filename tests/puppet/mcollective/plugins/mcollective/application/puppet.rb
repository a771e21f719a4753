# Stands in for the application of the puppet plugin: mco puppet runonce [filters]
class MCollective::Application::Puppet < MCollective::Application
  description 'Stand-in for tests'

  def post_option_parser(configuration)
    configuration[:command] = ARGV.shift
  end

  def main
    raise 'only runonce' unless configuration[:command] == 'runonce'

    client = rpcclient('puppet')
    printrpc client.runonce
    printrpcstats
    halt client.stats
  end
end
